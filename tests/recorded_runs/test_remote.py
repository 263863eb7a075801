"""Runs that other machines have logged: only a real MLflow server has their samples, no local
folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from servers import free_port, mlflow_server
from stores import INT8, NF4, NONE, Store, marks

from runner import compare
from runner.recorded_runs import sample_reader
from runner.tracking import stored_runs

RUNS = 12
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, new_database: Callable[[Path], None]
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server with some runs of other machines: its uri, its process."""
    from mlflow import MlflowClient

    folder, port = tmp_path_factory.mktemp("remote"), free_port()
    new_database(folder / "server" / "server.db")
    with mlflow_server(folder / "server", port) as process:
        uri = f"http://127.0.0.1:{port}"
        store = Store(folder)
        store.client = MlflowClient(uri)
        for name in ("many", "lost"):
            # without a location of its own: the server keeps the files
            store.client.create_experiment(name)
        for number in range(RUNS // 3):
            seed = {"seed": str(number)}
            store.job("many", f"none-{number}", NONE | seed, marks(50 + number, 100))
            store.job("many", f"int8-{number}", INT8 | seed, marks(50, 100))
            store.job("many", f"nf4-{number}", NF4 | seed, marks(40, 100))
        store.job("lost", "none", NONE, marks(50, 100))
        # its samples never arrived
        store.job("lost", "nf4", NF4, metrics={"n": 100, "correct": 50})
        for experiment in ("many", "lost"):
            shutil.rmtree(folder / experiment)
        yield uri, process


@pytest.fixture
def remote(server: tuple[str, subprocess.Popen[bytes]]) -> str:
    """The uri of the server."""
    return server[0]


def rows_of(
    uri: str, folder: Path, experiment: str, capsys: pytest.CaptureFixture[str]
) -> dict[str, dict[str, Any]]:
    chosen = ["--tracking-uri", uri, "--output-dir", str(folder), "--experiment", experiment]
    code = compare.main([*chosen, "--baseline", "quantization=none", "--format", "json"])
    captured = capsys.readouterr()
    assert (code, captured.err) == (0, "")
    return {row["job_id"]: row for row in json.loads(captured.out)["tables"][0]["rows"]}


@pytest.mark.thorough
def test_samples_come_from_the_server_several_at_a_time_but_not_too_many(
    remote: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    two = threading.Barrier(2, timeout=60)  # if downloads ran one after another, none would pass
    lock, now, most = threading.Lock(), 0, 0

    def download(*arguments: Any) -> Path | None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        two.wait()
        try:
            return real(*arguments)
        finally:
            with lock:
                now -= 1

    real = stored_runs.download_artifact
    monkeypatch.setattr(sample_reader, "download_artifact", download)
    rows = rows_of(remote, tmp_path, "many", capsys)
    assert len(rows) == RUNS
    for number in range(RUNS // 3):
        comparisons = [rows[f"{name}-{number}"]["comparison"] for name in ("int8", "nf4")]
        assert [(it["wins"], it["losses"]) for it in comparisons] == [(0, number), (0, 10 + number)]
    assert 2 <= most <= sample_reader.FETCHED_AT_ONCE < RUNS
    assert not list(tmp_path.iterdir())


def test_samples_that_never_reached_the_server_are_named(
    remote: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    note = rows_of(remote, tmp_path, "lost", capsys)["nf4"]["note"]
    assert note == (
        "samples are missing, because samples.jsonl of job nf4 is neither in the job's folder nor in MLflow"
    )


def test_a_dead_server_is_not_mistaken_for_runs_without_samples(
    server: tuple[str, subprocess.Popen[bytes]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri, process = server

    def gone(*arguments: Any) -> Path | None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return real(*arguments)

    real = stored_runs.download_artifact
    monkeypatch.setattr(sample_reader, "download_artifact", gone)
    code = compare.main(["--tracking-uri", uri, "--experiment", "lost", "--baseline", "quantization=none"])
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    assert captured.err.startswith("runner-compare: cannot fetch samples.jsonl of run ")
    assert captured.err.count("\n") == 1
