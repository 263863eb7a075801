"""Which store is used, how it is printed, and what happens if it does not answer."""

from __future__ import annotations

import contextlib
import shlex
import socket
import sqlite3
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from runner.tracking.connection import convert_store_errors_to_tracking_error
from runner.tracking.stores import Store, build_compare_command, format_mlflow_url_or_command
from runner_base.errors import TrackingError
from runner_base.uris import redact_secrets

Run = Callable[..., Any]
STUB = ("model=stub", "task.limit=2")


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.thorough
@pytest.mark.slow
def test_a_server_that_never_answers_is_an_error(runner: Run, silent: str) -> None:
    done = runner(*STUB, f"tracking.uri={silent}", process=True)
    assert done.code == 2
    assert "no answer within 10 s" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://TOKEN@host:5000/x?token=abc", "http://***@host:5000/x?token=***"),
        ("https://ann:pw@host/", "https://***@host/"),
        ("mssql+pyodbc:///?odbc_connect=Driver%3DX%3BPWD%3Dpw", "mssql+pyodbc:///?odbc_connect=***"),
        (
            "postgresql://host/runs?sslmode=require&user=ann",
            "postgresql://host/runs?sslmode=require&user=***",
        ),
        ("sqlite:////tmp/x@y/a?b.db", "sqlite:////tmp/x@y/a?b.db"),
        ("http://host/#TOKEN", "http://host/#***"),
        (
            "http://host:5000/#/experiments/1/runs/" + "a" * 32,
            "http://host:5000/#/experiments/1/runs/" + "a" * 32,
        ),
        ("postgresql://ann@host:5432/runs", "postgresql://ann@host:5432/runs"),
        ("postgresql+psycopg://ann:@host/runs", "postgresql+psycopg://***@host/runs"),
        ("postgresql://ann/pw@host/runs", "postgresql://***@host/runs"),
        ("http://us;er:p,w@host/x", "http://***@host/x"),
        ("http://o'b:p)w]}@host/x", "http://***@host/x"),
        ("http://ann:p#w@host/", "http://***@host/"),
        ("http://ann:p?w@host/", "http://***@host/"),
        ("HTTP://ann:p/w@host/", "HTTP://***@host/"),
        ("http://host/?mail=ann@there", "http://***@there"),
        ("http://host/a;jsessionid=abc?x=1,2;token=abc", "http://host/a;***?x=***"),
        (
            "http://a@b/c,http://ann:pw@d/e;sqlite:///x@y.db,http://T@f",
            "http://***@b/c,http://***@d/e;sqlite:///x@y.db,http://***@f",
        ),
        ("git+https://ann:pw@[::1]:80/x", "git+https://***@[::1]:80/x"),
    ],
)
def test_no_secret_of_a_uri_is_shown(uri: str, shown: str) -> None:
    assert redact_secrets(uri) == shown
    assert redact_secrets(f"cannot open '{uri}': why") == f"cannot open '{shown}': why"
    assert redact_secrets(f"{uri}: why") == f"{shown}: why"


USER = st.text("abcXYZ019!$&'()*+,;=:/?#@-._~%[]{}|\\", max_size=8)


@given(st.sampled_from(["http", "https", "postgresql", "mysql+pymysql"]), USER, USER)
def test_no_character_of_a_user_part_lets_its_secret_through(scheme: str, before: str, after: str) -> None:
    assume("://" not in f":{before}S3CRET{after}")  # with it, another URI begins there
    uri = f"{scheme}://ann:{before}S3CRET{after}@host/path"
    shown = redact_secrets(f"cannot open '{uri}': why")
    assert "S3CRET" not in shown
    assert shown.startswith("cannot open '")
    assert shown.endswith("': why")


TRACEBACK = """
import logging, sys, traceback
from mlflow.exceptions import MlflowException
from runner_base.entry import run_command
from runner.records.job_records import attach_job_log_file
from runner.tracking.connection import convert_store_errors_to_tracking_error
from runner.tracking.stores import Store
from pathlib import Path

def work():
    with attach_job_log_file(Path("log.txt")):
        with convert_store_errors_to_tracking_error(Store("http://T0KEN@host", "runner", Path())):
            raise MlflowException("API request to http://T0KEN@host/api failed")

def bug():
    with attach_job_log_file(Path("log.txt")):
        raise ValueError("http://T0KEN@host/#T0KEN")

run_command("error", {"work": work, "bug": bug}[sys.argv[1]], lambda error: None)
"""


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("what", "said"),
    [("work", "API request to http://***@host/api failed"), ("bug", "ValueError: http://***@host/#***")],
)
def test_a_whole_traceback_shows_no_token(tmp_path: Path, what: str, said: str) -> None:
    """An error of MLflow names its store; it is neither the cause of ours, nor shown for a bug."""
    command = [sys.executable, "-c", TRACEBACK, what]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    kept = (tmp_path / "log.txt").read_text()
    assert done.returncode == 1
    assert said in done.stderr
    assert said in kept
    assert "Traceback (most recent call last)" in done.stderr
    assert "T0KEN" not in done.stdout + done.stderr + kept


def test_an_error_of_the_store_has_no_token_in_its_traceback() -> None:
    """As a program of one's own shows it, which does not pass through our commands."""
    from mlflow.exceptions import MlflowException

    with (
        pytest.raises(TrackingError) as caught,
        convert_store_errors_to_tracking_error(Store("http://T0KEN@host", "runner", Path())),
    ):
        raise MlflowException("API request to http://T0KEN@host/api failed")
    shown = "".join(traceback.format_exception(caught.value))
    assert "API request to http://***@host/api failed" in shown
    assert "MlflowException" not in shown


def test_a_token_is_neither_printed_nor_kept(runner: Run, tmp_path: Path) -> None:
    for uri in ("http://T0KEN@127.0.0.1:9", "http://127.0.0.1:9/?token=T0KEN"):
        for arguments in (STUB, ("-m", *STUB, "seed=1,2")):
            done = runner(*arguments, f"tracking.uri='{uri}'")
            assert done.code == 2
            assert "T0KEN" not in done.out + done.err
        for module in ("runner_compare", "runner.tracking.sync"):
            done = runner("--tracking-uri", uri, module=module)
            assert "T0KEN" not in done.out + done.err
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if b"T0KEN" in path.read_bytes()]


def test_printed_commands_can_be_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    odd = Store(f"sqlite:///{tmp_path}/my runs/mlflow.db", "it's mine", tmp_path / "my runs")
    assert shlex.split(format_mlflow_url_or_command(odd.uri))[-1] == "sqlite:///my runs/mlflow.db"
    assert shlex.split(build_compare_command(odd))[1:] == [
        "--output-dir",
        "my runs",
        "--experiment",
        "it's mine",
    ]
    server = Store("http://host:5000", "runner", tmp_path / "outputs")
    assert format_mlflow_url_or_command(server.uri) == "http://host:5000"
    assert shlex.split(build_compare_command(server))[1:] == ["--tracking-uri", "http://host:5000"]


@pytest.mark.sampled(1)
@pytest.mark.slow
@pytest.mark.parametrize("blank", ["", "  "])
def test_a_blank_variable_is_not_set_for_all_three_commands(runner: Run, tmp_path: Path, blank: str) -> None:
    variables = {"MLFLOW_TRACKING_URI": blank, "MLFLOW_EXPERIMENT_NAME": blank}
    done = runner(*STUB, **variables)
    assert done.code == 0, done.err
    assert "runner-compare\n" in runner("-m", *STUB, "seed=0,1", **variables).out, (
        "the printed command needs no arguments"
    )
    with contextlib.closing(sqlite3.connect(tmp_path / "outputs" / "mlflow.db")) as connection:
        names = "select distinct experiments.name from experiments join runs using (experiment_id)"
        assert connection.execute(names).fetchall() == [("runner",)]
    synced = runner(module="runner.tracking.sync", **variables)
    assert "already contains every completed job" in synced.out, synced.err
    compared = runner("--format", "csv", module="runner_compare", **variables)
    assert compared.code == 0, compared.err


@pytest.mark.thorough
def test_one_rule_for_all_three_commands(
    runner: Run, tmp_path: Path, new_database: Callable[[Path], None]
) -> None:
    theirs = tmp_path / "their runs.db"
    new_database(theirs)
    chosen = {"MLFLOW_TRACKING_URI": f"sqlite:///{theirs}", "MLFLOW_EXPERIMENT_NAME": "it's theirs"}
    done = runner(*STUB, **chosen)
    assert done.code == 0, done.err
    query = (
        "select source_type, name, dataset_source_type from inputs join datasets on dataset_uuid = source_id"
    )
    with contextlib.closing(sqlite3.connect(theirs)) as connection:
        names = "select experiments.name from experiments join runs using (experiment_id) where status = 'FINISHED'"
        assert connection.execute(names).fetchall() == [("it's theirs",)]
        assert connection.execute(query).fetchall() == [("DATASET", "embedded test", "code")]
    assert not (tmp_path / "outputs" / "mlflow.db").read_bytes().count(b"it's theirs")
    assert "already contains every completed job" in runner(module="runner.tracking.sync", **chosen).out
    compared = runner("--format", "csv", module="runner_compare", **chosen)
    assert compared.code == 0, compared.err
