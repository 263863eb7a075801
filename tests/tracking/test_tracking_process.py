"""A run in MLflow that a copy of the process writes, in processes that have imported nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# mlflow 3.17 uses an old name of sqlalchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:.*noload.*:DeprecationWarning")
PROGRAM = """
import json, os, signal, sys
from pathlib import Path
from runner_base.result import Record, Result, Status
from runner.library.load import build_load_config
from runner.records import jobs
from runner.tracking import stores, tracking_process

out = Path(sys.argv[1])
store = stores.Store(f"sqlite:///{out}/mlflow.db", "runner", out)
folder = out / "jobs" / "job-1"
folder.mkdir(parents=True, exist_ok=True)
job = jobs.Job("job-1", folder)
record = Record(job.job_id, Status.FAILED, str(folder), Result({}), params={"model.name": "it"})
assert tracking_process.can_fork_tracking_process(store)
tracker = tracking_process.ForkedJobRun(store, job, record, False)
"""


@pytest.fixture
def run(tmp_path: Path, new_database: Callable[[Path], None]) -> Callable[[str], str]:
    """Return what a program prints after it has begun to write a run."""
    new_database(tmp_path / "mlflow.db")

    def printed(body: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM + body, str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return printed


@pytest.mark.thorough
def test_the_run_is_that_of_the_same_process(run: Callable[[str], str], tmp_path: Path) -> None:
    from mlflow import MlflowClient

    body = """
(folder / "log.txt").write_text("a line")
assert tracker.run_id
assert "mlflow" not in sys.modules, "only the copy has imported it"
record.result.metrics, record.status = {"accuracy": 0.5}, Status.FINISHED
tracker.log_result(record)
print(tracker.run_id)
try: os.waitpid(-1, 0)
except ChildProcessError: print("no process is left")
"""
    run_id, left = run(body).split("\n")
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    it = client.get_run(run_id)
    assert (it.info.status, it.data.metrics, it.data.params["model.name"]) == (
        "FINISHED",
        {"accuracy": 0.5},
        "it",
    )
    assert [file.path for file in client.list_artifacts(run_id)] == ["log.txt"]
    assert left == "no process is left"


@pytest.mark.thorough
def test_an_error_of_the_store_is_raised_while_waiting_and_again_at_the_end(
    run: Callable[[str], str],
) -> None:
    from mlflow import MlflowClient

    body = """
from runner_base.errors import ConfigError
for what in (tracker.wait_until_started, lambda: tracker.log_result(record)):
    try: what()
    except ConfigError as error: print(str(error).partition(":")[0])
print(tracker.run_id)
"""
    first = "tracker.log_result(record)"
    run(first)
    folder = Path(json.loads(run("print(json.dumps(str(out))); tracker.log_result(record)")))
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("runner")
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)
    assert run(body).split("\n") == ["tracking.experiment=runner"] * 2 + ["None"]


def test_a_copy_that_is_killed_loses_no_result(run: Callable[[str], str]) -> None:
    body = """
tracker.wait_until_started()
os.kill(tracker._process, signal.SIGKILL)
from runner_base.errors import TrackingError
try: tracker.log_result(record)
except TrackingError as error: print(error)
"""
    said = run(body)
    assert "was killed by SIGKILL" in said
    assert "It is saved in " in said


@pytest.mark.thorough
def test_signals_are_the_parents(run: Callable[[str], str]) -> None:
    body = """
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): os.kill(tracker._process, number)
tracker.wait_until_started()
record.status = Status.KILLED
tracker.log_result(record)
print("written")
"""
    assert run(body) == "written"


@pytest.mark.thorough
def test_a_process_with_a_second_job_with_threads_or_with_mlflow_is_not_copied(
    run: Callable[[str], str],
) -> None:
    body = """
import threading
print(tracking_process.can_fork_tracking_process(store))
tracking_process.ForkedJobRun.made = 0
print(tracking_process.can_fork_tracking_process(store))
stop = threading.Event()
threading.Thread(target=stop.wait).start()
print(tracking_process.can_fork_tracking_process(store)); stop.set()
sys.modules["mlflow"] = sys
print(tracking_process.can_fork_tracking_process(store)); del sys.modules["mlflow"]
tracker.log_result(record)
"""
    assert run(body).split() == ["False", "True", "False", "False"]
