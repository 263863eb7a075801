"""The runs that a store has, read through MLflow's client with few queries."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from runner.tracking.connection import (
    Experiment,
    connected_to_read,
    one_message,
    open_client,
    reachable,
    set_mlflow_variables,
)
from runner.tracking.stores import Store
from runner_base import ConfigError, Status, unknown

PARENT = "mlflow.parentRunId"
GRID = "grid"
GRID_STARTED_MS = "grid.started_ms"  # of a grid's run: when it was started last
JOB_ID = "job_id"
FINISHED, RUNNING = Status.FINISHED.value, "RUNNING"
ACTIVE_ONLY, DELETED_ONLY = 1, 2  # MLflow's ViewType
PAGE = 1000  # runs per query: each takes 100 KiB and more
RUNS_A_QUERY = 5  # MLflow reads so many runs in the time of a query that finds one
IDS_A_QUERY = 4000  # on average: the parser of MLflow's filters refuses more than 5,000
T = TypeVar("T")
Tags = tuple[str, str, dict[str, str]]  # id, status and tags of a run


@dataclass
class StoredRuns:
    """The runs of an experiment that were not deleted, the newest first."""

    # FINISHED runs: job -> run -> its parent
    jobs: dict[str, dict[str, str | None]] = field(default_factory=dict)
    # grid -> its runs with their status
    grids: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    # RUNNING runs of jobs and grids -> their tags
    running: dict[str, dict[str, str]] = field(default_factory=dict)

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


def read_runs(store: Store, jobs: Collection[str] | None = None, grid: str | None = None) -> StoredRuns:
    """Return the runs of all grids and jobs that the store has, or at least those of some jobs and
    of a grid.

    With a single job and no grid, only that job's.
    """
    stored = StoredRuns()
    with connected_to_read(store) as experiment:
        if experiment is None:
            return stored
        for run_id, (status, tags) in _read(experiment, jobs, grid).items():
            if status == RUNNING:
                stored.running[run_id] = tags
            if JOB_ID in tags and status == Status.FINISHED:
                stored.jobs.setdefault(tags[JOB_ID], {})[run_id] = tags.get(PARENT)
            elif GRID in tags:
                stored.grids.setdefault(tags[GRID], []).append((run_id, status))
    return stored


def _read(
    experiment: Experiment, jobs: Collection[str] | None, grid: str | None
) -> dict[str, tuple[str, dict[str, str]]]:
    """Return status and tags of the runs, by their ids, in the order of the store."""
    if jobs is None:
        found = _of_all(*experiment)
    else:
        is_one = len(jobs) == 1 and grid is None
        found = _of_one(*experiment, jobs) if is_one else _of_some(*experiment, jobs, grid)
    return {run_id: (status, tags) for run_id, status, tags in found}


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


def _of_some(client: Any, experiment_id: str, jobs: Collection[str], grid: str | None) -> Iterator[Tags]:
    """Yield the runs of grids, the finished runs of some jobs, and the runs that are running."""

    def found(query: str) -> list[Tags]:
        return [*map(_ledger_of, search(client, experiment_id, query))]

    finished = f"attributes.status = '{FINISHED}'"
    grids = found(f"tags.{GRID} LIKE '%'")
    runs: list[Tags] = []
    for run_id in [run_id for run_id, _, tags in grids if tags[GRID] == grid][:1]:  # most jobs are below it
        runs += found(f"{finished} and tags.`{PARENT}` = '{run_id}'")
    others = {*jobs} - {tags.get(JOB_ID) for _, _, tags in runs}
    runs += of_jobs(client, experiment_id, finished, others, _ledger_of)
    yield from (*grids, *runs)
    yield from found(f"attributes.status = '{RUNNING}'")


def of_jobs(
    client: Any, experiment_id: str, condition: str, jobs: Collection[str | None], kept: Callable[[Any], T]
) -> Iterator[T]:
    """Yield what is kept of the runs of some jobs that fulfil a condition.

    MLflow has no query for several jobs: each is asked for, unless there are few other runs. So the
    time grows with the jobs and not with what others have recorded.
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


def search(
    client: Any, experiment_id: str, query: str, page: int = PAGE, view: int = ACTIVE_ONLY
) -> Iterator[Any]:
    """Yield the runs that a query of MLflow finds, the newest first, page by page."""
    token: str | None = None
    while True:
        found = client.search_runs([experiment_id], query, view, page, ["attributes.start_time DESC"], token)
        yield from found
        token = found.token
        if not token:
            return


def conditions_without(run_ids: Collection[str]) -> Iterator[str]:
    """Yield conditions that together find every run but these, each for the ids with one
    beginning."""
    digits = 0
    while len(run_ids) > IDS_A_QUERY * 16**digits:
        digits += 1
    by_beginning: dict[str, list[str]] = {
        "".join(digits_of_id): [] for digits_of_id in product("0123456789abcdef", repeat=digits)
    }
    for run_id in run_ids:
        by_beginning[run_id[:digits]].append(f"'{run_id}'")
    for beginning, ids in by_beginning.items():
        begins = f" and attributes.run_id LIKE '{beginning}%'" if beginning else ""
        yield begins + (f" and attributes.run_id NOT IN ({','.join(ids)})" if ids else "")


def of_jobs_and_grid(
    client: Any, experiment_id: str, query: str, job_ids: Collection[str] | None, grid: str
) -> Iterator[Any]:
    """Yield the runs that MLflow finds for a query: all, or those of some jobs and of a grid."""
    if job_ids is None:
        yield from search(client, experiment_id, query)
        return
    yield from search(client, experiment_id, f"{query} and tags.`{PARENT}` = '{grid}'")
    yield from of_jobs(client, experiment_id, query, job_ids, lambda run: run)


def open_to_read(store: Store) -> Any:
    """Return a client for a store that a command reads; a database may be read-only."""
    set_mlflow_variables()
    if store.file is None:
        with reachable(store):
            pass
    with one_message(lambda text: f"cannot open {store.shown}: {text}"):
        return open_client(store.uri, "--tracking-uri")


def experiment_of(client: Any, experiment: str) -> Any:
    """Return an experiment, or raise ConfigError with the names there are."""
    found = client.get_experiment_by_name(experiment)
    if found is None:
        names = [item.name for item in client.search_experiments()]
        raise ConfigError(
            unknown("experiment", experiment, names),
            key="--experiment",
            value=experiment,
            code="unknown_choice",
        )
    return found


def cannot_read(text: str) -> str:
    """Return the message about a store that fails."""
    return f"cannot read the MLflow store: {text}"


def download(client: Any, run_id: str, name: str, target: Path) -> Path | None:
    """Fetch one artifact of a run into a folder; None if the run has no such artifact."""
    target.mkdir(parents=True, exist_ok=True)
    with one_message(lambda text: f"cannot fetch {name} of run {run_id}: {text}"):
        try:
            return Path(client.download_artifacts(run_id, name, str(target)))
        except Exception as error:
            if (
                isinstance(error, FileNotFoundError)
                or getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST"
            ):
                return None
            raise
