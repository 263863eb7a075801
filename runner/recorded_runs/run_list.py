"""Loads the finished runs and grids of an MLflow store.

Prefers job records in the output folder to MLflow queries.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from runner.recorded_runs.folder_runs import (
    DatedRun,
    build_run_with_start_time,
    load_experiment_runs,
    sort_runs_by_status_and_time,
)
from runner.recorded_runs.grid_plans import GridPlan
from runner.tracking.connection import convert_store_errors
from runner.tracking.logged_metrics import read_all_metrics
from runner.tracking.published_index import experiment_identity
from runner.tracking.stored_runs import (
    DELETED_ONLY,
    FINISHED,
    GRID,
    GRID_STARTED_MS,
    build_conditions_excluding_runs,
    find_experiment,
    read_error_message,
    search_job_and_grid_runs,
    search_runs,
)
from runner.tracking.stores import Store
from runner_base import ConfigError, Status, print_message
from runner_compare import JOB_ID, Run

LAST = "last"


def load_runs_from_mlflow_store(
    client: Any, store: Store, job_ids: Collection[str] | None = None, grid_run_id: str = ""
) -> list[Run]:
    """Return the runs of an MLflow store, newest first, with failed runs at the end.

    A job that ran twice occurs twice, and each run has its earlier runs. A result that a later grid logged
    again is no earlier run. With `job_ids`, only runs
    of these jobs and of the grid.
    """
    with convert_store_errors(read_error_message):
        runs = sort_runs_by_status_and_time(load_folder_and_mlflow_runs(client, store, job_ids, grid_run_id))
    if not runs and job_ids is None:
        raise ConfigError(
            "it contains no completed run", key="--experiment", value=store.experiment, code="empty"
        )
    by_job: dict[str, list[Run]] = {}
    for run in reversed(runs):  # from the oldest on
        older = by_job.setdefault(run.job_id, [])
        run.earlier = [other for other in older[::-1] if not _has_same_logged_result(run, other)]
        if len(run.earlier) == len(older):
            older.append(run)
    return runs


def _has_same_logged_result(run: Run, other: Run) -> bool:
    """Return whether two MLflow runs hold the same result. Two executions never take equally long."""
    seconds = run.metrics.get("seconds")
    return seconds is not None and seconds == other.metrics.get("seconds")


def load_folder_and_mlflow_runs(
    client: Any, store: Store, job_ids: Collection[str] | None, grid_run_id: str
) -> list[DatedRun]:
    """Return all runs of an experiment with their start times.

    MLflow is only queried for runs without a job record in the folder.
    """
    experiment = find_experiment(client, store.experiment)
    here, where = (
        load_experiment_runs(store, experiment_identity(experiment), job_ids),
        experiment.experiment_id,
    )
    deleted = (
        {run.info.run_id for run in search_runs(client, where, "", lifecycle_view=DELETED_ONLY)}
        if here.published
        else set()
    )
    runs = {
        dated_run[1].run_id: dated_run for dated_run in here.published if dated_run[1].run_id not in deleted
    }
    queries = [
        f"attributes.status = '{FINISHED}'{condition}"
        for condition in build_conditions_excluding_runs([*runs])
    ]
    for query in (*queries, f"attributes.status = '{Status.FAILED.value}' and metrics.errors > 0"):
        for recorded in search_job_and_grid_runs(client, where, query, job_ids, grid_run_id):
            if JOB_ID in recorded.data.tags and recorded.info.run_id not in runs:  # a grid's own run has none
                data, ids = (
                    recorded.data,
                    (recorded.info.run_id, recorded.info.start_time, recorded.info.status),
                )
                metrics = read_all_metrics(client, recorded.info.run_id, data.tags, data.metrics)
                runs[recorded.info.run_id] = found = build_run_with_start_time(
                    *ids, data.params, data.tags, metrics
                )
                found[1].artifacts = recorded.info.artifact_uri or ""
    logged = {run.job_id for _, run in runs.values()}
    for job_id in sorted(here.damaged.keys() - logged):
        print_message(f"note: left out: {here.damaged[job_id]}")
    return [
        *runs.values(),
        *(dated_run for dated_run in here.unpublished if dated_run[1].job_id not in logged),
    ]


def find_last_grid_run(client: Any, experiment_name: str) -> str:
    """Return the run id of the most recently started grid, or an empty text if there is no grid."""
    grids = _load_grid_runs(client, experiment_name)
    return grids[0].info.run_id if grids else ""


def _load_grid_runs(client: Any, experiment_name: str) -> list[Any]:
    """Return the MLflow runs of all grids, the most recently started first."""
    with convert_store_errors(read_error_message):
        experiment_id = find_experiment(client, experiment_name).experiment_id
        grids = [*search_runs(client, experiment_id, f"tags.{GRID} LIKE '%'")]
    return sorted(grids, key=_last_start_ms, reverse=True)


def find_grid_run(client: Any, experiment_name: str, grid_prefix: str) -> str:
    grids = _load_grid_runs(client, experiment_name)
    if not grids:
        raise ConfigError(
            f"no grid in experiment {experiment_name}", key="--grid", value=grid_prefix, code="not_found"
        )
    matching = [
        grid
        for grid in grids
        if grid.info.run_id.startswith(grid_prefix) or grid.data.tags[GRID].startswith(grid_prefix)
    ]
    if grid_prefix == LAST:
        matching = grids[:1]
    if len(matching) != 1:
        count = "several grids begin with it" if matching else "no grid has this run id"
        listed = ", ".join(
            f"{grid_run.info.run_id} ({grid_run.info.run_name})" for grid_run in (matching or grids)[:6]
        )
        raise ConfigError(
            f"{count}. Newest first: {listed}",
            key="--grid",
            value=grid_prefix,
            code="ambiguous" if matching else "not_found",
        )
    run_id: str = matching[0].info.run_id
    return run_id


def _last_start_ms(grid_run: Any) -> int:
    return int(grid_run.data.tags.get(GRID_STARTED_MS, grid_run.info.start_time))


def load_grid_job_runs(client: Any, store: Store, grid_run_id: str, plan: GridPlan | None) -> list[Run]:
    """Return the runs of a grid's jobs, including runs that finished before the grid started."""
    planned = set(plan.job_ids) if plan is not None else None
    runs = load_runs_from_mlflow_store(client, store, planned, grid_run_id)
    of_grid = [run for run in runs if run.grid == grid_run_id]
    earlier = (planned or set()) - {run.job_id for run in of_grid}
    return of_grid + [run for run in runs if run.job_id in earlier]


def require_single_grid_id(runs: list[Run]) -> str:
    grids = sorted({run.grid for run in runs if run.grid})
    if len(grids) == 1:
        return grids[0]
    if not grids:
        raise ConfigError(
            "the compared runs are not part of a grid. Save the comparison with --save FOLDER",
            key="--log",
            code="not_found",
        )
    raise ConfigError(
        f"the compared runs belong to {len(grids)} grids ({', '.join(grids[:4])}). Select one with --grid",
        key="--log",
        code="ambiguous",
    )
