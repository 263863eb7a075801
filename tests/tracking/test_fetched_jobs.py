"""Hosts that share nothing but an MLflow server that asks for a password: what one has done, the
others do not do again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from grids import results, samples, timeless
from servers import free_port, mlflow_server

pytest.importorskip("flask_wtf", reason="MLflow's own log-in needs Flask-WTF: pip install 'runner-llm[dev]'")
pytestmark = pytest.mark.slow
Run = Callable[..., Any]
JOB = ("-m", "model=stub", "task.limit=3", "print=json")


@dataclass
class Server:
    """A running MLflow server with a password."""

    uri: str
    folder: Path
    log_in: dict[str, str]

    def artifact(self, job_id: str, name: str) -> Path:
        """Return the file of a job that the server keeps."""
        (file,) = (
            path.with_name(name)
            for path in self.folder.glob("a/**/result.json")
            if json.loads(path.read_text())["job_id"] == job_id
        )
        return file


@pytest.fixture
def server(tmp_path: Path, new_database: Callable[[Path], None]) -> Iterator[Server]:
    """A real MLflow server with the log-in that comes with it."""
    port, folder = free_port(), tmp_path / "server"
    new_database(folder / "server.db")
    (folder / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = MANAGE\ndatabase_uri = sqlite:///{folder}/users.db\n"
        "admin_username = admin\nadmin_password = a-long-password\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    of_server = {"MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"), "MLFLOW_FLASK_SERVER_SECRET_KEY": "k"}
    with mlflow_server(folder, port, None, ("--app-name", "basic-auth"), **of_server):
        log_in = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": "a-long-password"}
        yield Server(f"http://127.0.0.1:{port}", folder, log_in)


@pytest.fixture
def host(runner: Run, server: Server, tmp_path: Path) -> Run:
    """Return a function that runs a command on a host: in a folder that no other host has."""

    def call(name: str, *arguments: str, module: str = "runner", **environment: str) -> Any:
        (tmp_path / name).mkdir(exist_ok=True)
        uri = ("--tracking-uri", server.uri) if module != "runner" else (f"tracking.uri={server.uri}",)
        variables = server.log_in | environment
        return runner(*arguments, *uri, module=module, cwd=tmp_path / name, **variables)

    return call


def ids(folder: Path) -> set[str]:
    return set(results(folder))


@pytest.mark.thorough
def test_what_one_host_has_done_the_others_know(host: Run, server: Server, tmp_path: Path) -> None:
    first = host("first", *JOB, "seed=1,2,3")
    assert first.code == 0, first.err
    done = timeless(tmp_path / "first")
    (tmp_path / "first").rename(tmp_path / "gone")  # no path of it can be read
    planned = host("second", *JOB, "seed=1,2,3,4", "plan=quick")
    assert planned.code == 0, planned.err
    assert "4 jobs: 1 to do, 3 done" in planned.out + planned.err
    assert not (tmp_path / "second" / "outputs" / "jobs").exists(), "a plan fetches nothing"
    second = host("second", *JOB, "seed=1,2,3,4")
    assert second.code == 0, second.err
    assert "4 jobs: 1 to do, 3 done" in second.err
    assert len(second.out.splitlines()) == 4
    fetched = timeless(tmp_path / "second")
    assert {job: fetched[job] for job in done} == done
    assert samples(tmp_path / "second").keys() > samples(tmp_path / "gone").keys()
    # a single job, too; and the control: with rerun=all it is done anew
    line = host("third", *JOB[1:], "seed=1")
    assert line.code == 0
    assert f"its result comes from {server.uri}" in line.err
    again = host("fourth", *JOB[1:], "seed=1", "rerun=all")
    assert "its result comes from" not in again.err
    # compared where it was not done
    assert host("third", "--format", "json", module="runner_compare").code == 0


@pytest.mark.thorough
def test_sync_in_both_directions(host: Run, tmp_path: Path) -> None:
    assert host("first", *JOB, "seed=1,2").code == 0
    alone = host("second", *JOB[1:], "seed=3", "tracking=none")
    assert alone.code == 0, alone.err
    (tmp_path / "first").rename(tmp_path / "gone")
    both = host("second", "--fetch", module="runner.tracking.sync")
    assert both.code == 0, both.err
    assert both.out.startswith("1 results logged to http://")
    assert both.out.splitlines()[-1] == "2 results fetched"
    assert len(ids(tmp_path / "second")) == 3
    again = host("second", "--fetch", module="runner.tracking.sync")
    assert again.out.splitlines()[-1].startswith("nothing to fetch: ")
    home = host("second", *JOB, "seed=1,2,3")
    assert "3 jobs: 3 done" in home.err


@pytest.mark.thorough
def test_without_the_password_it_is_one_line_and_what_the_server_has_damaged_is_done_again(
    host: Run, server: Server, tmp_path: Path
) -> None:
    refused = host("first", *JOB, "seed=1,2", MLFLOW_TRACKING_PASSWORD="wrong")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in refused.err
    assert "wrong" not in refused.err.splitlines()[-1]
    assert host("first", *JOB, "seed=1,2").code == 0
    changed, other = sorted(ids(tmp_path / "first"))
    file = server.artifact(changed, "samples.jsonl")
    file.write_text(file.read_text().replace('"index": 1', '"index": 7', 1))
    second = host("second", *JOB, "seed=1,2")
    assert second.code == 0, second.err
    assert f"has damaged files of job {changed}: " in second.err
    assert "2 jobs: 1 to do, 1 done" in second.err
    assert timeless(tmp_path / "second") == timeless(tmp_path / "first")
    assert f"files of job {other}" not in second.err
