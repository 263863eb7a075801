"""Results that MLflow does not have yet: after tracking=none, and after a server that became
unreachable."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import warm_process
from grids import wait_for
from servers import free_port, mlflow_server

from runner.records.jobs import SENT

Run = Callable[..., Any]


def finished(database: Path) -> list[str]:
    """Return the job ids of the FINISHED runs, read from the database itself."""
    query = "select t.value from tags t join runs r using (run_uuid) where t.key = 'job_id' and r.status = 'FINISHED'"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return sorted(row[0] for row in connection.execute(query))


@pytest.mark.slow
def test_sync_logs_what_is_missing_and_only_once(runner: Run, tmp_path: Path) -> None:
    plain = runner("-m", "model=stub", "task.limit=2", "seed=1,2", "tracking=none", "print=json")
    ids = sorted(json.loads(line)["job_id"] for line in plain.out.splitlines())
    broken = tmp_path / "outputs" / "jobs" / "gsm8k-broken"
    broken.mkdir()
    (broken / "result.json").write_text("{")
    shutil.copytree(tmp_path / "outputs" / "jobs" / ids[0], tmp_path / "outputs" / "jobs" / ids[1] / SENT)
    first = runner(module="runner.tracking.sync")
    assert (first.code, first.out.startswith("2 results logged to sqlite:///")) == (0, True), first.err
    assert "left out: " in first.err
    assert not list(tmp_path.glob(f"outputs/jobs/*/{SENT}")), "whoever was receiving it is dead"
    database = tmp_path / "outputs" / "mlflow.db"
    assert finished(database) == ids
    assert "already contains every completed job" in runner(module="runner.tracking.sync").out
    assert finished(database) == ids
    again = runner("-m", "model=stub", "task.limit=2", "seed=1,2", "print=none")
    assert "2 jobs: 2 done" in again.err
    assert finished(database) == ids


@pytest.mark.thorough
def test_sync_without_a_folder_or_a_server(runner: Run, tmp_path: Path) -> None:
    nothing = runner("--output-dir", "nope", module="runner.tracking.sync")
    assert nothing.code == 2
    assert "--output-dir nope: " in nothing.err
    assert "/nope/jobs does not exist" in nothing.err
    assert runner("model=stub", "task.limit=2", "tracking=none").code == 0
    away = runner(
        "--tracking-uri", "http://127.0.0.1:9", module="runner.tracking.sync", MLFLOW_HTTP_REQUEST_MAX_RETRIES="0"
    )  # fmt: skip
    assert away.code == 2
    assert "cannot write to MLflow at http://127.0.0.1:9: " in away.err
    assert "Traceback" not in away.err


@pytest.mark.thorough
@pytest.mark.slow
def test_a_server_that_becomes_unreachable_loses_no_result(
    runner: Run, tmp_path: Path, new_database: Callable[[Path], None]
) -> None:
    port, store = free_port(), tmp_path / "server"
    new_database(store / "server.db")
    uri = f"http://127.0.0.1:{port}"
    grid = [
        "-m",
        "model=stub",
        "model.delay_s=0.5",
        "task.limit=8",
        "seed=1,2,3",
        "workers=1",
        f"tracking.uri={uri}",
    ]
    with mlflow_server(store, port):
        process = warm_process.popen(
            [sys.executable, "-m", "runner", *grid, "print=json"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"},
        )
        jobs = tmp_path / "outputs" / "jobs"
        # one job is done, and eight seconds are left
        wait_for(lambda: list(jobs.glob("*/result.json")))
    out, err = process.communicate(timeout=180)
    assert process.returncode == 2, "the results are on disk, and MLflow does not have them"
    results = [json.loads(line) for line in out.splitlines()]
    assert [line["status"] for line in results] == ["FINISHED"] * 3
    assert "runner-sync" in err
    with mlflow_server(store, port):
        synced = runner("--tracking-uri", uri, module="runner.tracking.sync")
        assert synced.code == 0, synced.err
        assert "results logged to" in synced.out
        assert (
            "already contains every completed job"
            in runner("--tracking-uri", uri, module="runner.tracking.sync").out
        )
    ids = finished(store / "server.db")
    assert sorted(set(ids)) == sorted(line["job_id"] for line in results)
    assert len(ids) == 3, "each once"
