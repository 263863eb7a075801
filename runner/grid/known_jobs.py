"""The jobs of a grid that other hosts have finished, known from the MLflow server that all of them
log to."""

from __future__ import annotations

from contextlib import suppress

from runner.grid.plan import PlannedJob, State
from runner.records.jobs import claim
from runner.render.starts import FETCHING_KNOWN_JOBS
from runner.run import must_start_anew
from runner.tasks.base import task_of
from runner.tracking.fetched_jobs import fetch_run, server_of
from runner.tracking.stored_runs import read_runs
from runner.tracking.stores import Store
from runner_base import JobHeld, Progress, TrackingError
from runner_base.notes import note


def find_known(plan: list[PlannedJob]) -> list[tuple[PlannedJob, Store, str]]:
    """Return the jobs that are not done here and finished on a server, with its store and their
    runs there."""
    by_store: dict[Store, list[PlannedJob]] = {}
    for planned in plan:
        config = planned.config
        if config is None or planned.job is None or planned.state not in (State.todo, State.resume):
            continue
        if (store := server_of(config)) is not None and not must_start_anew(config, task_of(config)):
            by_store.setdefault(store, []).append(planned)
    known = []
    for store, jobs in by_store.items():
        with suppress(TrackingError):  # the start of the grid says that the server cannot be reached
            stored = read_runs(store, {job.job_id for job in jobs})
            known += [
                (job, store, run) for job in jobs if (run := stored.run_of(job.job_id, None)) is not None
            ]
    return known


def mark_known(plan: list[PlannedJob]) -> None:
    """Mark them as done in a plan that is only shown."""
    for planned, store, _ in find_known(plan):
        planned.state = State.done
        planned.notes.append(note("done_elsewhere", store=store.shown))


def fetch_known(plan: list[PlannedJob]) -> None:
    """Fetch their results, so that they are done here, too."""
    if not (known := find_known(plan)):
        return
    with Progress(len(known), FETCHING_KNOWN_JOBS) as bar:
        for planned, store, run_id in known:
            assert planned.job is not None
            with suppress(JobHeld), claim(planned.job, wait=False):
                planned.record = fetch_run(store, run_id, planned.job)
                planned.state = planned.state if planned.record is None else State.done
            bar.advance()
