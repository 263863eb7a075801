"""Trackers besides MLflow: jobs are logged to them, and a tracker that fails costs no result."""

from __future__ import annotations

import importlib.util
import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from plug_in_packages import write_package

pytestmark = pytest.mark.slow
Call = Callable[..., Any]
JOB = ("model=stub", "task.limit=3", "tracking=none", "print=json")
TRACKERS = """
import json
from dataclasses import dataclass
from runner.config.trackers import Tracker

@dataclass(frozen=True)
class Lines(Tracker):
    package = "json"

    def log_record(self, record, project, folder):
        (folder / "logged.json").write_text(json.dumps([record.job_id, project, record.result.metrics]))
        print("a tracker talks")

@dataclass(frozen=True)
class Broken(Tracker):
    package = "json"

    def log_record(self, record, project, folder):
        raise ConnectionError("the tracker is down")

LINES, BROKEN = Lines(), Broken()
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    points = "[runner.trackers]\nlines = of_trackers:LINES\nbroken = of_trackers:BROKEN\n"
    return write_package(tmp_path / "site", "tracker-package", points, of_trackers=TRACKERS)


def test_a_finished_job_is_logged_once_and_stdout_stays_the_jobs(package: Path, runner: Call) -> None:
    done = runner(*JOB, "trackers=[lines]", process=True, PYTHONPATH=str(package))
    record = json.loads(done.out)
    job_id, project, metrics = json.loads(Path(record["output_dir"], "logged.json").read_text())
    assert (done.code, job_id, project) == (0, record["job_id"], "runner")
    assert metrics == record["metrics"]
    assert "a tracker talks" in done.err
    without = runner(*JOB, process=True, PYTHONPATH=str(package))
    assert json.loads(without.out)["job_id"] == job_id, "the key is no part of the job id"


def test_a_tracker_that_fails_costs_a_warning_and_no_result(package: Path, runner: Call) -> None:
    done = runner(*JOB, "trackers=[broken,lines]", process=True, PYTHONPATH=str(package))
    record = json.loads(done.out)
    assert (done.code, record["status"]) == (0, "FINISHED")
    assert "the tracker is down" in done.err
    assert Path(record["output_dir"], "logged.json").is_file(), "the other tracker has it"


@pytest.mark.parametrize(
    ("name", "message"), [("wandbb", "Did you mean wandb?"), ("missing", "no_such_package")]
)
def test_mistakes_end_before_the_job(tmp_path: Path, runner: Call, name: str, message: str) -> None:
    missing = TRACKERS.replace('package = "json"', 'package = "no_such_package"', 1)
    points = "[runner.trackers]\nmissing = of_missing:LINES\n"
    site = write_package(tmp_path / "site", "missing-package", points, of_missing=missing)
    done = runner(*JOB, f"trackers=[{name}]", process=True, PYTHONPATH=str(site))
    assert (done.code, message in done.err) == (2, True)
    assert not list(tmp_path.rglob("result.json"))


@pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="trackio is not installed")
def test_trackio_has_the_metrics(runner: Call, tmp_path: Path) -> None:
    done = runner(
        *JOB, "trackers=[trackio]", process=True, TRACKIO_DIR=str(tmp_path / "trackio"), **os.environ
    )
    with closing(sqlite3.connect(tmp_path / "trackio" / "runner.db")) as database:
        ((logged,),) = database.execute("select metrics from metrics").fetchall()
    assert json.loads(logged)["correct"] == json.loads(done.out)["metrics"]["correct"]


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_has_an_offline_run(runner: Call) -> None:
    done = runner(*JOB, "trackers=[wandb]", process=True, **os.environ)
    (run,) = Path(json.loads(done.out)["output_dir"], "wandb").glob("offline-run-*/*.wandb")
    assert json.loads(done.out)["job_id"].encode() in run.read_bytes()
