"""A job has one run in MLflow, wherever its server is killed, and whatever answer of the server is
lost."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lossy_proxy import lossy_proxy
from servers import free_port, mlflow_server
from stored import grids, jobs, rows

Run = Callable[..., Any]
STUB = ("model=stub", "task.limit=3", "print=none")


def count(database: Path, query: str) -> int:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return int(connection.execute(query).fetchone()[0])


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize(
    ("lost", "again"),
    [
        ("runs/create", "command"),
        ("runs/log-batch", "command"),
        ("runs/log-inputs", "command"),
        ("artifacts/result.json", "command"),
        ("artifacts/result.json", "sync"),
    ],
)
def test_a_killed_server_leaves_one_run(
    runner: Run, tmp_path: Path, new_database: Callable[[Path], None], lost: str, again: str
) -> None:
    """Killed when it has done what the path says, and has not answered."""
    is_begun = lost.startswith("runs/")
    port, folder = free_port(), tmp_path / "server"
    database = folder / "server.db"
    new_database(database)
    with contextlib.ExitStack() as stack:
        server: list[subprocess.Popen[bytes]] = []

        def kill() -> None:
            os.killpg(server[0].pid, signal.SIGKILL)
            server[0].wait()

        uri = stack.enter_context(lossy_proxy(port, lost, kill))
        command = (*STUB, f"tracking.uri={uri}")
        with mlflow_server(folder, port) as process:
            server.append(process)
            broken = runner(*command, process=True, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
            assert broken.code == 2, broken.err
        assert [row.status for row in rows(database)] == ["RUNNING"], (
            "it was begun, and its end was not heard"
        )
        assert ("The result is kept" in broken.err) == (not is_begun)
        [begun] = rows(database)
        with mlflow_server(folder, port):
            options = ("--tracking-uri", uri)
            done = (
                runner(*options, module="runner.tracking.sync")
                if again == "sync"
                else runner(*command, process=True)
            )
            assert done.code == 0, done.err
            [run] = rows(database)
            assert (run.run_id, run.status, run.stage) == (begun.run_id, "FINISHED", "active")
            assert count(database, "select count(*) from params where key = 'model.name'") == 1
            assert count(database, "select count(*) from inputs") >= 1
            assert count(database, "select count(*) from metrics where key = 'accuracy'") == 1
            assert {"result.json", "samples.jsonl"} <= {it.name for it in folder.glob("a/*/*/artifacts/*")}
            assert (
                "already contains every completed job" in runner(*options, module="runner.tracking.sync").out
            )
            assert len(rows(database)) == 1


@pytest.mark.sampled(1)
@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("-m", "seed=1", "workers=1")], ids=["job", "grid"])
def test_a_lost_answer_creates_no_second_run(
    runner: Run, tmp_path: Path, new_database: Callable[[Path], None], words: tuple[str, ...]
) -> None:
    """The server lives on, and MLflow's client would ask again."""
    port, folder = free_port(), tmp_path / "server"
    new_database(folder / "server.db")
    with mlflow_server(folder, port), lossy_proxy(port, "runs/create", lambda: None) as uri:
        done = runner(*STUB, *words, f"tracking.uri={uri}", process=True)
        assert done.code == 0, done.err
    found = [*jobs(folder / "server.db"), *grids(folder / "server.db")]
    assert [row.status for row in found] == ["FINISHED"] * (2 if words else 1)
    assert len(rows(folder / "server.db")) == len(found)
