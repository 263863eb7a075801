"""Reads the runs of an MLflow store through MLflow's client, with few queries."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from runner.tracking.connection import (
    Experiment,
    connect_for_reading,
    convert_store_errors,
    import_mlflow,
    open_client,
    require_reachable_store,
)
from runner.tracking.stores import Store
from runner_base import ConfigError, Status, format_unknown_choice_message

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
    """All runs of an experiment except deleted runs, newest first."""

    # FINISHED runs: job -> run -> its parent
    jobs: dict[str, dict[str, str | None]] = field(default_factory=dict)
    # grid -> its runs with their status
    grids: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    # RUNNING runs of jobs and grids -> their tags
    running: dict[str, dict[str, str]] = field(default_factory=dict)

    def find_run(self, job_id: str, parent_run_id: str | None) -> str | None:
        """Return the MLflow run id of a job, or None. `parent_run_id` restricts the search to its child
        runs.
        """
        runs = self.jobs.get(job_id, {})
        return next((run for run, above in runs.items() if parent_run_id in (None, above)), None)

    def find_run_without_parent(self, job_id: str) -> str | None:
        return next((run for run, above in self.jobs.get(job_id, {}).items() if above is None), None)

    def find_run_without_existing_parent(self, job_id: str) -> str | None:
        """Return the MLflow run id of a job whose run has no parent run or a deleted parent run."""
        grids = {run for runs in self.grids.values() for run, _ in runs}
        return next((run for run, above in self.jobs.get(job_id, {}).items() if above not in grids), None)


def read_stored_runs(
    store: Store, job_ids: Collection[str] | None = None, grid_id: str | None = None
) -> StoredRuns:
    """Return the runs of an experiment, or only the runs of these jobs or this grid.

    For a single job without a grid, only that job's runs.
    """
    stored = StoredRuns()
    with connect_for_reading(store) as experiment:
        if experiment is None:
            return stored
        for run_id, (status, tags) in _read_run_statuses(experiment, job_ids, grid_id).items():
            if status == RUNNING:
                stored.running[run_id] = tags
            if JOB_ID in tags and status == Status.FINISHED:
                stored.jobs.setdefault(tags[JOB_ID], {})[run_id] = tags.get(PARENT)
            elif GRID in tags:
                stored.grids.setdefault(tags[GRID], []).append((run_id, status))
    return stored


def _read_run_statuses(
    experiment: Experiment, job_ids: Collection[str] | None, grid_id: str | None
) -> dict[str, tuple[str, dict[str, str]]]:
    """Return the status and tags of runs, by run id."""
    if job_ids is None:
        found = _query_all(*experiment)
    else:
        is_one = len(job_ids) == 1 and grid_id is None
        found = (
            _query_single_job(*experiment, job_ids)
            if is_one
            else _query_job_and_grid_runs(*experiment, job_ids, grid_id)
        )
    return {run_id: (status, tags) for run_id, status, tags in found}


def _summarize_run(run: Any) -> Tags:
    """Return the id, status and tags of a run, because a complete run object takes 100 KiB of memory."""
    return run.info.run_id, run.info.status, run.data.tags


def _query_all(client: Any, experiment_id: str) -> Iterator[Tags]:
    of_jobs = (f"tags.{JOB_ID} LIKE '%' and attributes.status = '{status}'" for status in (FINISHED, RUNNING))
    for query in (*of_jobs, f"tags.{GRID} LIKE '%'"):
        yield from map(_summarize_run, search_runs(client, experiment_id, query))


def _query_single_job(client: Any, experiment_id: str, job_ids: Collection[str]) -> Iterator[Tags]:
    for status in (FINISHED, RUNNING):
        yield from search_runs_of_jobs(
            client, experiment_id, f"attributes.status = '{status}'", job_ids, _summarize_run
        )


def _query_job_and_grid_runs(
    client: Any, experiment_id: str, job_ids: Collection[str], grid_id: str | None
) -> Iterator[Tags]:
    """Yield all runs of grids, all running runs, and the finished runs of the given jobs."""

    def find_runs(query: str) -> list[Tags]:
        return [*map(_summarize_run, search_runs(client, experiment_id, query))]

    finished = f"attributes.status = '{FINISHED}'"
    grids = find_runs(f"tags.{GRID} LIKE '%'")
    runs: list[Tags] = []
    for run_id in [run_id for run_id, _, tags in grids if tags[GRID] == grid_id][
        :1
    ]:  # most jobs are below it
        runs += find_runs(f"{finished} and tags.`{PARENT}` = '{run_id}'")
    others = {*job_ids} - {tags.get(JOB_ID) for _, _, tags in runs}
    runs += search_runs_of_jobs(client, experiment_id, finished, others, _summarize_run)
    yield from (*grids, *runs)
    yield from find_runs(f"attributes.status = '{RUNNING}'")


def search_runs_of_jobs(
    client: Any,
    experiment_id: str,
    condition: str,
    job_ids: Collection[str | None],
    convert_run: Callable[[Any], T],
) -> Iterator[T]:
    """Yield the runs of the given jobs that match a query condition, each converted by `convert_run`.

    MLflow has no query for several jobs: each job is queried, unless there are few other runs. So
    the time grows with the jobs and not with the runs of others.
    """
    most, found = RUNS_A_QUERY * len(job_ids), []
    if len(job_ids) > 1:
        for number, run in enumerate(search_runs(client, experiment_id, condition, min(PAGE, most + 1))):
            if number == most:
                break
            if run.data.tags.get(JOB_ID) in job_ids:
                found.append(convert_run(run))
        else:
            yield from found
            return
    for job in job_ids:
        yield from map(
            convert_run, search_runs(client, experiment_id, f"{condition} and tags.{JOB_ID} = '{job}'")
        )


def search_runs(
    client: Any, experiment_id: str, query: str, page_size: int = PAGE, lifecycle_view: int = ACTIVE_ONLY
) -> Iterator[Any]:
    """Yield all runs that match an MLflow query, newest first. The runs are requested page by page."""
    token: str | None = None
    while True:
        found = client.search_runs(
            [experiment_id], query, lifecycle_view, page_size, ["attributes.start_time DESC"], token
        )
        yield from found
        token = found.token
        if not token:
            return


def build_conditions_excluding_runs(run_ids: Collection[str]) -> Iterator[str]:
    """Yield MLflow query conditions that together match every run except the runs in `run_ids`."""
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


def search_job_and_grid_runs(
    client: Any, experiment_id: str, query: str, job_ids: Collection[str] | None, grid_run_id: str
) -> Iterator[Any]:
    """Yield the runs that match an MLflow query, or only the matching runs of the given jobs and grid."""
    if job_ids is None:
        yield from search_runs(client, experiment_id, query)
        return
    yield from search_runs(client, experiment_id, f"{query} and tags.`{PARENT}` = '{grid_run_id}'")
    yield from search_runs_of_jobs(client, experiment_id, query, job_ids, lambda run: run)


def open_mlflow_client_for_reading(store: Store) -> Any:
    """Return an MLflow client for reading. A read-only database is allowed."""
    import_mlflow(store)
    if store.sqlite_file is None:
        with require_reachable_store(store):
            pass
    with convert_store_errors(lambda text: f"cannot open {store.redacted_uri}: {text}"):
        return open_client(store.uri, "--tracking-uri")


def find_experiment(client: Any, experiment_name: str) -> Any:
    """Return an MLflow experiment. If the experiment is missing, raise ConfigError with the names of
    existing experiments.
    """
    found = client.get_experiment_by_name(experiment_name)
    if found is None:
        names = [item.name for item in client.search_experiments()]
        raise ConfigError(
            format_unknown_choice_message("experiment", experiment_name, names),
            key="--experiment",
            value=experiment_name,
            code="unknown_choice",
        )
    return found


def read_error_message(text: str) -> str:
    return f"cannot read the MLflow store: {text}"


def download_artifact(client: Any, run_id: str, name: str, target_folder: Path) -> Path | None:
    """Download one artifact of a run into a folder. None if the run has no such artifact."""
    target_folder.mkdir(parents=True, exist_ok=True)
    with convert_store_errors(lambda text: f"cannot fetch {name} of run {run_id}: {text}"):
        try:
            return Path(client.download_artifacts(run_id, name, str(target_folder)))
        except Exception as error:
            if (
                isinstance(error, FileNotFoundError)
                or getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST"
            ):
                return None
            raise
