"""The progress of a running job in MLflow: few points, no step twice, and no wait for the store."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import warm_process
from servers import free_port, mlflow_server
from stored import jobs, read_together

from runner import compare
from runner.records.jobs import Job
from runner.tracking import job_progress, job_runs, stores
from runner.tracking.job_progress import (
    MAX_POINTS,
    POINT_EVERY_S,
    PREFIX,
    SEND_EVERY_S,
    JobProgress,
    ProgressPoint,
)
from runner_base.result import Record, Result, Status

# mlflow 3.17 uses an old name of sqlalchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:.*noload.*:DeprecationWarning")
Run = Callable[..., Any]
SLOW_JOB = ("model=stub", "model.delay_s=0.25", "task.limit=40", "task.cluster=null", "print=none")
LONG_JOB = (*SLOW_JOB, "task.limit=70")
ACCURACY, SPEED = f"{PREFIX}accuracy", f"{PREFIX}decode_tok_per_s"


class Clock:
    """A clock that a test advances."""

    now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    def time(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(job_progress, "time", made)
    return made


class Receiver:
    """Receives batches of points, and when each came."""

    def __init__(self, clock: Clock, accepts: bool = True) -> None:
        self.clock, self.accepts = clock, accepts
        self.batches: list[tuple[float, list[ProgressPoint]]] = []

    def receive(self, points: Sequence[ProgressPoint]) -> bool:
        self.batches.append((self.clock.now_s, [*points]))
        return self.accepts


def answer(progress: JobProgress, clock: Clock, total: int, per_s: float, first: int = 1) -> None:
    for number in range(first, total + 1):
        clock.now_s += 1 / per_s
        progress.add_progress_point(number, total, {"accuracy": number / total})


@pytest.mark.parametrize(
    ("total", "per_s"), [(10_000, 1_000.0), (10_000, 50.0), (1_319, 0.5), (100, 0.01), (201, 1.0)]
)
def test_a_job_has_few_points_and_few_calls(clock: Clock, total: int, per_s: float) -> None:
    receiver = Receiver(clock)
    progress = JobProgress(receiver.receive)
    answer(progress, clock, total, per_s)
    points = [
        point for _, batch in receiver.batches for point in batch
    ] + progress.take_unsent_progress_points()
    steps = [point.num_answered for point in points]
    assert 5 <= len(steps) <= MAX_POINTS + 1
    assert steps == sorted(set(steps))
    assert steps[-1] == total
    assert all(point.metrics["accuracy"] == point.num_answered / total for point in points)
    assert all(late - early >= SEND_EVERY_S for (early, _), (late, _) in pairwise(receiver.batches))
    times_s = [point.time_ms / 1000 for point in points[:-1]]
    assert all(late - early > POINT_EVERY_S - 0.01 for early, late in pairwise(times_s))


@pytest.mark.parametrize(("seconds", "has_points"), [(SEND_EVERY_S - 0.1, False), (SEND_EVERY_S + 1, True)])
def test_a_short_job_has_no_points(clock: Clock, seconds: float, has_points: bool) -> None:
    receiver = Receiver(clock)
    progress = JobProgress(receiver.receive)
    answer(progress, clock, 100, 100 / seconds)
    assert bool(receiver.batches or progress.take_unsent_progress_points()) is has_points


def test_points_that_are_refused_come_with_the_next_batch(clock: Clock) -> None:
    receiver = Receiver(clock, accepts=False)
    progress = JobProgress(receiver.receive)
    answer(progress, clock, 20, 1.0)
    refused = [point.num_answered for point in receiver.batches[-1][1]]
    assert len(refused) > len(receiver.batches[0][1]), "the batch grows"
    receiver.accepts = True
    answer(progress, clock, 30, 1.0, first=21)
    accepted = [
        point.num_answered for _, batch in receiver.batches for point in batch if point.num_answered > 20
    ]
    rest = [point.num_answered for point in progress.take_unsent_progress_points()]
    first_accepted = next(batch for _, batch in receiver.batches if batch[-1].num_answered > 20)
    assert [point.num_answered for point in first_accepted][: len(refused)] == refused
    assert accepted + rest == [*range(21, 31)]


# --------------------------------------------------------------------------------------- real jobs


def read_points(database: Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Return the points of each run and metric, in the order in which they were measured."""
    found: dict[str, dict[str, list[tuple[int, float]]]] = {}
    query = f"select run_uuid, key, step, value from metrics where key like '{PREFIX}%' order by timestamp"
    with read_together(database) as connection:
        for run_id, key, step, value in connection.execute(query):
            found.setdefault(run_id, {}).setdefault(key, []).append((step, value))
    return found


def read_metrics(database: Path, run_id: str) -> dict[str, float]:
    with read_together(database) as connection:
        query = "select key, value from latest_metrics where run_uuid = ?"
        return dict(connection.execute(query, [run_id]).fetchall())


@pytest.mark.thorough
@pytest.mark.slow
def test_a_killed_and_resumed_job_repeats_no_step_and_ends_at_the_result(runner: Run, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "runner", *LONG_JOB, f"output_dir={tmp_path}/outputs"]
    process: subprocess.Popen[str] = warm_process.popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    database = tmp_path / "outputs" / "mlflow.db"
    until = time.monotonic() + 60
    while not (database.exists() and database.stat().st_size and read_points(database)):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.2)
    (row,) = jobs(database)
    assert row.status == "RUNNING", "MLflow has a curve while the job runs"
    process.kill()
    process.wait()
    before = read_points(database)[row.run_id]
    assert runner(*LONG_JOB, database=False).code == 0
    (row,) = jobs(database)
    assert row.status == "FINISHED"
    points = read_points(database)[row.run_id]
    assert points.keys() == {ACCURACY, SPEED}
    metrics = read_metrics(database, row.run_id)
    for key, curve in points.items():
        steps = [step for step, _ in curve]
        assert steps == sorted(set(steps)), "no step comes twice"
        assert curve[: len(before[key])] == before[key]
        assert len(curve) > len(before[key])
        assert steps[-1] == 70
    assert points[ACCURACY][-1][1] == pytest.approx(metrics["accuracy"])


@pytest.mark.thorough
@pytest.mark.slow
def test_the_jobs_of_a_grid_have_curves_that_a_comparison_ignores(
    runner: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = runner("-m", *SLOW_JOB, "seed=1,2", "workers=2")
    assert done.code == 0, done.err
    outputs = tmp_path / "outputs"
    points = read_points(outputs / "mlflow.db")
    assert {*points} == {row.run_id for row in jobs(outputs / "mlflow.db")}
    assert all(len(curve) >= 3 for curves in points.values() for curve in curves.values())
    uri = f"sqlite:///{outputs / 'mlflow.db'}"

    def compared(folder: Path) -> str:
        capsys.readouterr()
        asked = ["--output-dir", str(folder), "--tracking-uri", uri, "--baseline", "seed=1"]
        assert compare.main([*asked, "--columns", "all", "--format", "json"]) == 0
        # what differs between a record and its run
        return re.sub(r'"(output_dir|mlflow_[a-z_]+|seconds)": [^,}]*', "", capsys.readouterr().out)

    from_folder = compared(outputs)
    (tmp_path / "elsewhere").mkdir()
    shutil.move(outputs / "jobs", tmp_path / "jobs")
    (outputs / ".published.jsonl").unlink()
    from_mlflow = compared(tmp_path / "elsewhere")
    assert '"accuracy"' in from_mlflow
    assert PREFIX not in from_folder + from_mlflow


@pytest.mark.thorough
def test_tracking_progress_false_logs_none(runner: Run, tmp_path: Path) -> None:
    assert runner(*SLOW_JOB, "tracking.progress=false").code == 0
    assert not read_points(tmp_path / "outputs" / "mlflow.db")


# ------------------------------------------------------------------------------------ slow servers


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[job_runs.JobRun, subprocess.Popen[bytes]]]:
    """The run of a job on an MLflow server, and the server's process."""
    port = free_port()
    with mlflow_server(tmp_path / "server", port) as server:
        store = stores.Store(f"http://127.0.0.1:{port}", "runner", tmp_path / "outputs")
        job = Job("job-1", tmp_path / "outputs" / "jobs" / "job-1")
        job.folder.mkdir(parents=True)
        record = Record(job.job_id, Status.FAILED, str(job.folder), Result({}))
        yield job_runs.start_job_run(store, job, record), server


def make_points(*steps: int) -> list[ProgressPoint]:
    return [ProgressPoint(step, int(time.time() * 1000) + step, {"accuracy": 0.5}) for step in steps]


def read_steps(run: job_runs.JobRun) -> list[int]:
    return sorted(point.step for point in run.client.get_metric_history(run.run_id, ACCURACY))


@pytest.mark.thorough
@pytest.mark.slow
def test_a_server_that_hangs_delays_no_job_and_gets_the_points_later(
    served: tuple[job_runs.JobRun, subprocess.Popen[bytes]],
) -> None:
    run, server = served
    os.killpg(server.pid, signal.SIGSTOP)
    began_s = time.monotonic()
    assert run.send_progress(make_points(1, 2))
    assert not run.send_progress(make_points(1, 2, 3)), "the first batch is still under way"
    assert time.monotonic() - began_s < 1
    os.killpg(server.pid, signal.SIGCONT)
    run._sender.wait()
    assert run.send_progress(make_points(3))
    record = Record(run.job.job_id, Status.FINISHED, str(run.job.folder), Result({"accuracy": 0.5}))
    run.log_result(record, make_points(4))
    assert read_steps(run) == [1, 2, 3, 4]


@pytest.mark.thorough
@pytest.mark.slow
def test_a_server_that_is_gone_costs_one_warning(
    served: tuple[job_runs.JobRun, subprocess.Popen[bytes]], caplog: pytest.LogCaptureFixture
) -> None:
    run, server = served
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()
    for step in range(3):
        until = time.monotonic() + 60
        while not run.send_progress(make_points(step)):
            assert time.monotonic() < until
            time.sleep(0.1)
    run._sender.wait()
    assert len([line for line in caplog.records if line.name == job_runs.__name__]) == 1
