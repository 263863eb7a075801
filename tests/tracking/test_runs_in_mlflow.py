"""Finished jobs are in MLflow whatever happens to the store, and no run stays RUNNING."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import warm_process
from grids import kill, wait_for
from impatient import impatient
from servers import free_port, mlflow_server
from stored import grids, jobs, rows

Run = Callable[..., Any]
STUB = ("model=stub", "task.limit=2", "print=json")
# mlflow 3.17 uses an old name of sqlalchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:.*noload.*:DeprecationWarning")
WHOLE = ("model=stub", "task.limit=400")
SLOW = (*WHOLE, "model.delay_s=0.25")  # the same job, which takes 100 s


def client(database: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{database}")


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "outputs" / "mlflow.db"


# ------------------------------------------------------------------------------------------- one
# job


@pytest.mark.thorough
def test_two_stores_in_turn_have_one_run_each(
    runner: Run, tmp_path: Path, new_database: Callable[[Path], None]
) -> None:
    stores = [tmp_path / "one.db", tmp_path / "two.db"]
    for store in stores:
        new_database(store)
    for _ in range(2):
        for store in stores:
            done = runner(*STUB, f"tracking.uri=sqlite:///{store}")
            assert done.code == 0, done.err
            assert done.json()["mlflow_run_id"] == jobs(store)[0].run_id
    assert [[row.status for row in jobs(store)] for store in stores] == [["FINISHED"], ["FINISHED"]]


@pytest.mark.thorough
@pytest.mark.slow
def test_another_experiment_gets_a_run_of_its_own(runner: Run, database: Path) -> None:
    for name in ("runner", "second", "second"):
        done = runner(*STUB, f"tracking.experiment={name}")
        assert done.code == 0, done.err
    assert [(row.experiment, row.status) for row in jobs(database)] == [
        ("runner", "FINISHED"),
        ("second", "FINISHED"),
    ]


@pytest.mark.thorough
def test_a_deleted_run_is_logged_again_once(runner: Run, database: Path) -> None:
    first = runner(*STUB).json()["mlflow_run_id"]
    client(database).delete_run(first)
    again = [runner(*STUB).json()["mlflow_run_id"] for _ in range(2)]
    assert again[0] == again[1] != first
    assert [row.stage for row in jobs(database)] == ["deleted", "active"]


@pytest.mark.thorough
@pytest.mark.slow
def test_a_deleted_database_is_created_again(
    runner: Run, database: Path, new_database: Callable[[Path], None]
) -> None:
    assert runner(*STUB).code == 0
    new_database(database)  # only a new process opens it: MLflow keeps a file open
    assert runner(*STUB, process=True).code == 0
    assert [row.status for row in jobs(database)] == ["FINISHED"]
    database.unlink()
    assert "1 results logged" in runner(module="runner.tracking.sync", process=True).out
    assert "already contains every completed job" in runner(module="runner.tracking.sync", process=True).out
    assert [row.status for row in jobs(database)] == ["FINISHED"]


@pytest.mark.thorough
def test_a_deleted_experiment_is_named_with_the_fix(runner: Run, database: Path) -> None:
    assert runner(*STUB).code == 0
    experiment = client(database).get_experiment_by_name("runner")
    client(database).delete_experiment(experiment.experiment_id)
    done = runner(*STUB)
    assert done.code == 2
    assert f"mlflow experiments restore --experiment-id {experiment.experiment_id}" in done.err


@pytest.mark.thorough
@pytest.mark.slow
def test_a_recorded_job_that_the_store_has_imports_no_mlflow(runner: Run, tmp_path: Path) -> None:
    assert runner(*STUB).code == 0
    program = f"""
import atexit, sys
atexit.register(lambda: print("MLFLOW", "mlflow" in sys.modules))
sys.argv = {["runner", *STUB]!r}
from runner.__main__ import entry; entry()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "MLFLOW False" in done.stdout


# ------------------------------------------------------------------------------------------ grids


def below(database: Path) -> dict[str, list[str]]:
    """Return the job ids below each parent run."""
    job_ids: dict[str, list[str]] = {}
    for row in jobs(database):
        job_ids.setdefault(row.tags.get("mlflow.parentRunId", ""), []).append(row.tags["job_id"])
    return job_ids


@pytest.mark.thorough
@pytest.mark.slow
def test_every_job_of_a_grid_is_below_its_one_parent(runner: Run, database: Path) -> None:
    assert runner(*STUB, "seed=1").code == 0
    for _ in range(2):
        done = runner("-m", *STUB, "seed=1,2")
        assert done.code == 0, done.err
    (parent,) = grids(database)
    assert parent.status == "FINISHED"
    assert {run: len(ids) for run, ids in below(database).items()} == {parent.run_id: 2}, (
        "the run without a parent was moved below it"
    )
    done = runner("-m", *STUB, "seed=2,3")
    assert done.code == 0, done.err
    assert [row.status for row in grids(database)] == ["FINISHED"] * 2
    other = grids(database)[1].run_id
    assert {run: len(set(ids)) for run, ids in below(database).items()} == {parent.run_id: 2, other: 2}
    assert len(jobs(database)) == 4, "seed 2 is logged once more, below the second grid"


@pytest.mark.thorough
@pytest.mark.slow
def test_a_grid_whose_jobs_are_all_done_has_its_parent(runner: Run, database: Path) -> None:
    for seed in (1, 2):
        assert runner(*STUB, f"seed={seed}").code == 0
    for _ in range(2):
        assert runner("-m", *STUB, "seed=1,2").code == 0
    (parent,) = grids(database)
    assert (parent.status, {*below(database)}, len(jobs(database))) == ("FINISHED", {parent.run_id}, 2)
    client(database).delete_run(parent.run_id)
    assert runner("-m", *STUB, "seed=2,1").code == 0
    new = grids(database)[1]
    assert (new.stage, {*below(database)}, len(jobs(database))) == ("active", {new.run_id}, 2)


@pytest.mark.thorough
@pytest.mark.slow
def test_a_grid_with_a_job_that_cannot_work_is_failed(runner: Run, database: Path) -> None:
    done = runner("-m", *STUB, "task.split=test,nope")
    assert done.code == 2
    assert [row.status for row in grids(database)] == ["FAILED"]
    assert runner("-m", *STUB, "task.split=test,nope", "plan=true").code == 2, "as the plan of that job alone"
    for arguments in (["-m", "task.split=no,nope"], ["task.split=nope"]):
        assert runner(*STUB, *arguments, "plan=true").code == 2


# ------------------------------------------------------------------------------------- runs left
# RUNNING


def started(folder: Path, *arguments: str, **popen: Any) -> subprocess.Popen[bytes]:
    """Start a slow job and return when it has written two samples."""
    command = [sys.executable, "-m", "runner", *SLOW, *arguments]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = warm_process.popen(command, cwd=folder, **quiet, **popen)

    def has_two_samples() -> bool:
        assert process.poll() is None
        return sum(file.read_bytes().count(b"\n") for file in folder.glob("*/jobs/*/samples.jsonl")) >= 2

    wait_for(has_two_samples)
    return process


def exit_code(process: subprocess.Popen[bytes]) -> int:
    return process.wait(timeout=200)


@pytest.fixture
def empty_database(database: Path, new_database: Callable[[Path], None]) -> Path:
    new_database(database)
    return database


@pytest.mark.sampled(1)
@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP], ids=["SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("grid", [False, True], ids=["job", "grid"])
def test_an_interrupted_run_is_killed_in_mlflow(
    tmp_path: Path, empty_database: Path, sent: signal.Signals, grid: bool
) -> None:
    arguments = ["-m", "seed=1,2", "workers=1"] if grid else []
    # as a script does with `runner … &`
    process = started(tmp_path, *arguments, ignored=[signal.SIGINT])
    process.send_signal(sent)
    assert exit_code(process) == 130
    assert {row.status for row in rows(empty_database)} == {"KILLED"}
    assert len(grids(empty_database)) == grid


@pytest.mark.thorough
@pytest.mark.slow
def test_nohup_is_respected(tmp_path: Path, empty_database: Path) -> None:
    process = started(tmp_path, ignored=[signal.SIGHUP])
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None
    process.terminate()
    assert exit_code(process) == 130
    assert [row.status for row in rows(empty_database)] == ["KILLED"]


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("grid", [False, True], ids=["job", "grid"])
def test_ctrl_c_twice_leaves_nothing_running(tmp_path: Path, empty_database: Path, grid: bool) -> None:
    process = started(tmp_path, *(["-m", "seed=1,2", "workers=1"] if grid else []))
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    assert exit_code(process) in (130, -signal.SIGINT), "the last signal may come after the end is recorded"
    assert {row.status for row in rows(empty_database)} == {"KILLED"}


@pytest.mark.thorough
@pytest.mark.slow
def test_a_dead_run_is_found_in_the_store_and_folder_where_it_was_started(
    runner: Run, tmp_path: Path, empty_database: Path, new_database: Callable[[Path], None]
) -> None:
    process = started(tmp_path)
    kill(process)
    (tmp_path / "link").symlink_to(tmp_path / "outputs")
    other = tmp_path / "other.db"
    new_database(other)
    arguments = [*WHOLE, "print=json"]
    done = runner(*arguments, "output_dir=link", f"tracking.uri=sqlite:///{other}", "tracking.experiment=x")
    assert done.code == 0, done.err
    assert [row.status for row in jobs(empty_database)] == ["KILLED"]
    assert [(row.status, row.experiment) for row in jobs(other)] == [("FINISHED", "x")]


@pytest.mark.thorough
@pytest.mark.slow
def test_a_dead_grid_is_ended_by_a_grid_of_another_experiment(
    runner: Run, tmp_path: Path, empty_database: Path
) -> None:
    process = started(tmp_path, "-m", "seed=1,2", "tracking.experiment=a", "workers=1")
    kill(process)
    done = runner("-m", *STUB, "seed=5,6", "tracking.experiment=b")
    assert done.code == 0, done.err
    assert [(row.experiment, row.status) for row in grids(empty_database)] == [
        ("a", "KILLED"),
        ("b", "FINISHED"),
    ]
    assert Counter((row.experiment, row.status) for row in jobs(empty_database)) == {
        ("a", "KILLED"): 1,
        ("b", "FINISHED"): 2,
    }
    assert not [*(tmp_path / "outputs" / ".grids").iterdir()]


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("grid", [False, True], ids=["job", "grid"])
def test_a_store_that_was_away_shows_nothing_as_running(
    runner: Run, tmp_path: Path, empty_database: Path, new_database: Callable[[Path], None], grid: bool
) -> None:
    arguments = ["-m", "seed=1,2", "workers=1"] if grid else []
    process = started(tmp_path, *arguments)
    kill(process)
    away = empty_database.rename(tmp_path / "away.db")
    new_database(empty_database)
    again = (*WHOLE, "print=json", *arguments)
    assert runner(*again, process=True).code == 0  # MLflow keeps a file open
    away.replace(empty_database)
    assert Counter(row.status for row in rows(empty_database)) == {"RUNNING": 1 + grid}
    done = runner(*again, process=True)
    assert done.code == 0, done.err
    finished = {"FINISHED": 3, "KILLED": 1} if grid else {"FINISHED": 1, "KILLED": 1}
    assert Counter(row.status for row in rows(empty_database)) == finished


@pytest.mark.thorough
@pytest.mark.slow
def test_a_run_of_a_living_process_or_of_another_folder_is_left_alone(
    runner: Run, tmp_path: Path, empty_database: Path
) -> None:
    shared = f"tracking.uri=sqlite:///{empty_database}"
    process = started(tmp_path, shared, "output_dir=elsewhere")
    kill(process)
    command = [sys.executable, "-m", "runner", *STUB, "seed=3", "model.delay_s=600"]
    living = warm_process.popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: len(jobs(empty_database)) == 2)
    done = runner("-m", *STUB, shared, "seed=1,2")
    assert done.code == 0, done.err
    folders = {
        row.tags["output_dir"].split("/")[-3] for row in jobs(empty_database) if row.status == "RUNNING"
    }
    assert folders == {"elsewhere", "outputs"}, "one of another folder, and one whose process lives"
    living.terminate()
    assert exit_code(living) == 130


@pytest.mark.thorough
@pytest.mark.slow
def test_a_grid_that_could_not_be_logged_fails(tmp_path: Path, empty_database: Path) -> None:
    # nine seconds are left when it is locked
    grid = ("-m", "seed=1,2", "workers=1", "task.limit=20")
    process = started(tmp_path, *grid, env=os.environ | impatient(tmp_path))
    with contextlib.closing(sqlite3.connect(empty_database)) as lock:
        lock.execute("begin exclusive")
        assert process.wait(timeout=300) == 2
    assert "RUNNING" in {row.status for row in rows(empty_database)}
    code, _, errors = warm_process.run("runner", [*SLOW, *grid], timeout_s=120, cwd=tmp_path)
    assert code == 0, errors
    assert "RUNNING" not in {row.status for row in rows(empty_database)}
    assert [row.status for row in grids(empty_database)] == ["FINISHED"]
    assert len({row.tags["job_id"] for row in jobs(empty_database) if row.status == "FINISHED"}) == 2


@pytest.mark.thorough
@pytest.mark.slow
def test_a_run_stays_pending_while_its_store_is_away(
    runner: Run, tmp_path: Path, new_database: Callable[[Path], None]
) -> None:
    port = free_port()
    new_database(tmp_path / "server" / "server.db")
    uri = f"http://127.0.0.1:{port}"
    with mlflow_server(tmp_path / "server", port):
        process = started(tmp_path, f"tracking.uri={uri}")
        kill(process)
    done = runner(*WHOLE, "print=json", MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    assert done.code == 0, done.err
    assert "may still have the status RUNNING in MLflow" in done.err
    assert Counter(row.status for row in jobs(tmp_path / "server" / "server.db")) == {"RUNNING": 1}
    with mlflow_server(tmp_path / "server", port):
        synced = runner("--tracking-uri", uri, module="runner.tracking.sync")
        assert synced.code == 0, synced.err
    assert Counter(row.status for row in jobs(tmp_path / "server" / "server.db")) == {
        "KILLED": 1,
        "FINISHED": 1,
    }
