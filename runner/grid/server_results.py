"""Finds jobs of a grid that other hosts have finished and logged to a shared MLflow server."""

from __future__ import annotations

from contextlib import suppress

from runner.grid.plan import PlannedJob, PlanState
from runner.records.jobs import lock_job
from runner.render.progress_messages import FETCHING_KNOWN_JOBS
from runner.run import must_ignore_earlier_results
from runner.tasks.base import import_task_module
from runner.tracking.downloaded_jobs import download_run_files, get_mlflow_server_store
from runner.tracking.stored_runs import read_stored_runs
from runner.tracking.stores import Store
from runner_base import JobAlreadyRunning, Progress, TrackingError
from runner_base.notes import note


def find_jobs_done_on_server(plan: list[PlannedJob]) -> list[tuple[PlannedJob, Store, str]]:
    """Return the planned jobs that have results on an MLflow server, each with its store and run id."""
    by_store: dict[Store, list[PlannedJob]] = {}
    for planned in plan:
        config = planned.config
        if config is None or planned.job is None or planned.state not in (PlanState.todo, PlanState.resume):
            continue
        if (store := get_mlflow_server_store(config)) is not None and not must_ignore_earlier_results(
            config, import_task_module(config)
        ):
            by_store.setdefault(store, []).append(planned)
    known = []
    for store, jobs in by_store.items():
        with suppress(TrackingError):  # the start of the grid says that the server cannot be reached
            stored = read_stored_runs(store, {job.job_id for job in jobs})
            known += [
                (job, store, run) for job in jobs if (run := stored.find_run(job.job_id, None)) is not None
            ]
    return known


def mark_jobs_done_on_server(plan: list[PlannedJob]) -> None:
    for planned, store, _ in find_jobs_done_on_server(plan):
        planned.state = PlanState.done
        planned.notes.append(note("done_elsewhere", store=store.redacted_uri))


def download_server_results(plan: list[PlannedJob]) -> None:
    """Download the results of jobs that other hosts ran, from an MLflow server to this output folder."""
    if not (known := find_jobs_done_on_server(plan)):
        return
    with Progress(len(known), FETCHING_KNOWN_JOBS, "jobs") as bar:
        for planned, store, run_id in known:
            assert planned.job is not None
            with suppress(JobAlreadyRunning), lock_job(planned.job, should_wait=False):
                planned.record = download_run_files(store, run_id, planned.job)
                planned.state = planned.state if planned.record is None else PlanState.done
            bar.advance()
