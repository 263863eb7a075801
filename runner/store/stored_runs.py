"""The runs that a store has, read with few queries; sqlite is read without MLflow, whose import takes seconds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from runner.core.result import Status
from runner.core.uris import sqlite_path
from runner.store import sqlite_runs
from runner.store.mlflow_store import Store, clear_errors, find_store, refuse_deleted

PARENT = "mlflow.parentRunId"
GRID = "grid"
JOB_ID = "job_id"
FINISHED, RUNNING = Status.FINISHED.value, "RUNNING"
PAGE = 1000  # runs per query: each takes 100 KiB and more
RUNS_A_QUERY = 5  # MLflow reads so many runs in the time of a query that finds one
IDS_A_QUERY = 100
T = TypeVar("T")
Tags = tuple[str, str, dict[str, str]]  # id, status and tags of a run


@dataclass
class StoredRuns:
    """The runs of an experiment that were not deleted, the newest first."""

    jobs: dict[str, dict[str, str | None]] = field(default_factory=dict)  # FINISHED runs: job -> run -> its parent
    grids: dict[str, list[tuple[str, str]]] = field(default_factory=dict)  # grid -> its runs with their status
    running: dict[str, dict[str, str]] = field(default_factory=dict)  # RUNNING runs of jobs and grids -> their tags

    def run_of(self, job_id: str, parent: str | None) -> str | None:
        """Return a run of a job below this parent, or any run of it if the parent is None."""
        runs = self.jobs.get(job_id, {})
        return next((run for run, above in runs.items() if parent in (None, above)), None)

    def free_run_of(self, job_id: str) -> str | None:
        """Return a run of a job without a parent."""
        return next((run for run, above in self.jobs.get(job_id, {}).items() if above is None), None)

    def orphan_of(self, job_id: str) -> str | None:
        """Return a run of a job without a parent, or whose parent was deleted."""
        grids = {run for runs in self.grids.values() for run, _ in runs}
        return next((run for run, above in self.jobs.get(job_id, {}).items() if above not in grids), None)


def read_runs(
    store: Store, jobs: Collection[str] | None = None, grid: str | None = None, parents: Collection[str] = ()
) -> StoredRuns:
    """Return the runs of all jobs and grids that the store has, or at least those of some jobs and of some grids.

    A grid is given by its name, or by its run in `parents`.
    """
    stored = StoredRuns()
    with clear_errors(store.uri):
        for run_id, (status, tags) in _read(store, jobs, grid, parents).items():
            if status == RUNNING:
                stored.running[run_id] = tags
            if JOB_ID in tags and status == Status.FINISHED:
                stored.jobs.setdefault(tags[JOB_ID], {})[run_id] = tags.get(PARENT)
            elif GRID in tags:
                stored.grids.setdefault(tags[GRID], []).append((run_id, status))
    return stored


def _read(
    store: Store, jobs: Collection[str] | None = None, grid: str | None = None, parents: Collection[str] = ()
) -> dict[str, tuple[str, dict[str, str]]]:
    """Return status and tags of the runs, by their ids, in the order of the store."""
    is_one = jobs is not None and len(jobs) == 1 and grid is None
    if sqlite_path(store.uri) is not None:  # all runs are read in the time in which MLflow's client reads a few
        found = _from_sqlite(store, next(iter(jobs)) if jobs is not None and is_one else None)
    elif (opened := find_store(store)) is None:
        return {}
    elif jobs is None:
        found = _of_all(*opened)
    else:
        found = _of_one(*opened, jobs) if is_one else _of_some(*opened, jobs, grid, parents)
    return {run_id: (status, tags) for run_id, status, tags in found}


def _from_sqlite(store: Store, job_id: str | None) -> Iterator[Tags]:
    file = sqlite_path(store.uri)
    assert file is not None
    if not (file.exists() and file.stat().st_size):
        return
    with sqlite_runs.opened(file) as database:
        for experiment_id, stage in sqlite_runs.experiments(database, store.experiment):
            refuse_deleted(store, stage, experiment_id)
            yield from sqlite_runs.tags_of_runs(database, experiment_id, job_id)


def _ledger_of(run: Any) -> Tags:
    """Return what the ledger needs of a run: a run as a whole takes 100 KiB."""
    return run.info.run_id, run.info.status, run.data.tags


def _of_all(client: Any, experiment_id: str) -> Iterator[Tags]:
    of_jobs = (f"tags.{JOB_ID} LIKE '%' and attributes.status = '{status}'" for status in (FINISHED, RUNNING))
    for query in (*of_jobs, f"tags.{GRID} LIKE '%'"):
        yield from map(_ledger_of, search(client, experiment_id, query))


def _of_one(client: Any, experiment_id: str, job: Collection[str]) -> Iterator[Tags]:
    for status in (FINISHED, RUNNING):
        yield from of_jobs(client, experiment_id, f"attributes.status = '{status}'", job, _ledger_of)


def _of_some(
    client: Any, experiment_id: str, jobs: Collection[str], grid: str | None, parents: Collection[str]
) -> Iterator[Tags]:
    """Yield the finished runs of some jobs with the grids that they are in, and the runs that are running."""

    def found(query: str) -> list[Tags]:
        return [*map(_ledger_of, search(client, experiment_id, query))]

    finished = f"attributes.status = '{FINISHED}'"
    grids = found(f"tags.{GRID} = '{grid}'") if grid is not None else []
    runs: list[Tags] = []
    for run_id, _, _ in grids[:1]:  # most jobs of a grid that was started before are here
        runs += found(f"{finished} and tags.`{PARENT}` = '{run_id}'")
    others = {*jobs} - {tags.get(JOB_ID) for _, _, tags in runs}
    runs += of_jobs(client, experiment_id, finished, others, _ledger_of)
    yield from (*grids, *runs)
    above = sorted({*parents, *(tags[PARENT] for _, _, tags in runs if PARENT in tags)})
    for begin in range(0, len(above), IDS_A_QUERY):
        ids = ", ".join(f"'{run_id}'" for run_id in above[begin : begin + IDS_A_QUERY])
        yield from found(f"attributes.run_id IN ({ids})")
    yield from found(f"attributes.status = '{RUNNING}'")


def of_jobs(
    client: Any, experiment_id: str, condition: str, jobs: Collection[str | None], kept: Callable[[Any], T]
) -> Iterator[T]:
    """Yield what is kept of the runs of some jobs that fulfil a condition.

    MLflow has no query for several jobs: each is asked for, unless there are few other runs. So the time grows with the
    jobs and not with what others have recorded.
    """
    most, found = RUNS_A_QUERY * len(jobs), []
    if len(jobs) > 1:
        for number, run in enumerate(search(client, experiment_id, condition, min(PAGE, most + 1))):
            if number == most:
                break
            if run.data.tags.get(JOB_ID) in jobs:
                found.append(kept(run))
        else:
            yield from found
            return
    for job in jobs:
        yield from map(kept, search(client, experiment_id, f"{condition} and tags.{JOB_ID} = '{job}'"))


def search(client: Any, experiment_id: str, query: str, page: int = PAGE) -> Iterator[Any]:
    """Yield the runs that a query of MLflow finds, the newest first, page by page."""
    token: str | None = None
    while True:
        found = client.search_runs([experiment_id], query, 1, page, ["attributes.start_time DESC"], token)
        yield from found
        token = found.token
        if not token:
            return
