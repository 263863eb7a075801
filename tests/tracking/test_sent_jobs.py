"""What a host sends of its jobs: while one runs and once it has ended, and how the grid's host
takes it over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from raising import raises
from stored import jobs as runs

from runner.config.resolved import resolve_job
from runner.config.root import NoTrackingConfig, RunnerConfig, TrackingConfig
from runner.grid.outcomes import run_grid_job
from runner.grid.plan import plan_job
from runner.records import job_archives
from runner.records.jobs import Job
from runner.run import read_inputs_and_identify_job
from runner.tracking import adopted_jobs
from runner.tracking.sink import NotLogged
from runner_base.result import Status

# mlflow 3.17 uses an old name of sqlalchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:.*noload.*:DeprecationWarning")


@pytest.fixture
def config(
    make_config: Callable[..., RunnerConfig], tmp_path: Path, new_database: Callable[[Path], None]
) -> RunnerConfig:
    """The config of a job on the grid's host, with an empty store."""
    new_database(tmp_path / "runs.db")
    return make_config(tracking=TrackingConfig(uri=f"sqlite:///{tmp_path}/runs.db"))


@pytest.fixture
def ended(config: RunnerConfig, tmp_path: Path) -> Job:
    """The same job as another host has ended it."""
    there = replace(config, output_dir=str(tmp_path / "there"), tracking=NoTrackingConfig())
    assert run_grid_job(there).status is Status.FINISHED
    _, job = read_inputs_and_identify_job(resolve_job(there))
    return job


def here(config: RunnerConfig) -> Job:
    """Return the job in the grid's folder."""
    planned = plan_job([], config)
    assert planned.job is not None
    return planned.job


def statuses(tmp_path: Path) -> list[str]:
    return [run.status for run in runs(tmp_path / "runs.db")]


def test_the_samples_of_a_running_job_come_without_a_result(config: RunnerConfig, ended: Job) -> None:
    """The thread that sends them may find the result that the job has written this moment."""
    job_archives.unpack_partial_job(job_archives.pack_job_folder(ended, is_running=True), here(config))
    assert here(config).read_last_record() is None, "it is not done before it is logged"
    assert here(config).samples_path.read_bytes() == ended.samples_path.read_bytes()


def test_a_job_that_ended_is_logged_once(config: RunnerConfig, ended: Job, tmp_path: Path) -> None:
    for _ in range(2):
        record = adopted_jobs.adopt_job(
            job_archives.pack_job_folder(ended), here(config), config, ignore_earlier=False
        )
        assert (record.status, record.job_id, record.output_dir) == (
            Status.FINISHED,
            ended.job_id,
            str(here(config).folder),
        )
        assert statuses(tmp_path) == ["FINISHED"]


def test_a_result_that_was_not_logged_is_logged(config: RunnerConfig, ended: Job, tmp_path: Path) -> None:
    """Another process may have written it here, and died before it could log it."""
    job_archives.unpack_partial_job(job_archives.pack_job_folder(ended), here(config))
    assert statuses(tmp_path) == []
    record = adopted_jobs.adopt_job(
        job_archives.pack_job_folder(ended), here(config), config, ignore_earlier=False
    )
    assert (record.status, record.from_ledger) == (Status.FINISHED, True)
    assert statuses(tmp_path) == ["FINISHED"]


def test_a_store_that_does_not_answer_costs_no_result(config: RunnerConfig, ended: Job) -> None:
    nowhere = replace(config, tracking=TrackingConfig(uri="http://127.0.0.1:9"))
    with raises(NotLogged, "failed") as error:
        adopted_jobs.adopt_job(
            job_archives.pack_job_folder(ended), here(nowhere), nowhere, ignore_earlier=False
        )
    assert error.value.record.status is Status.FINISHED
    done = here(nowhere).read_last_record()
    assert done is not None
    assert done.status is Status.FINISHED
