"""The finished runs and the grids of an MLflow store, as far as a comparison needs them: by the
folder's records, where it has them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from runner.recorded_runs.folder_runs import Dated, in_order, run_of, runs_of_experiment
from runner.recorded_runs.grid_plans import GridPlan
from runner.tracking.connection import one_message
from runner.tracking.logged_metrics import read_all
from runner.tracking.published import identity_of
from runner.tracking.stored_runs import (
    DELETED_ONLY,
    FINISHED,
    GRID,
    GRID_STARTED_MS,
    cannot_read,
    conditions_without,
    experiment_of,
    of_jobs_and_grid,
    search,
)
from runner.tracking.stores import Store
from runner_base import ConfigError, Status, say
from runner_compare import JOB_ID, Run

LAST = "last"


def load_runs(client: Any, store: Store, job_ids: Collection[str] | None = None, grid: str = "") -> list[Run]:
    """Return the finished runs, newest first, then runs with errors of jobs that have never
    finished.

    A job that ran twice occurs twice, and each run has its earlier runs. With `job_ids`, only runs
    of these jobs and of the grid.
    """
    with one_message(cannot_read):
        runs = in_order(runs_here_and_there(client, store, job_ids, grid))
    if not runs and job_ids is None:
        raise ConfigError(
            "no finished run in it yet", key="--experiment", value=store.experiment, code="empty"
        )
    by_job: dict[str, list[Run]] = {}
    for run in reversed(runs):  # from the oldest on
        older = by_job.setdefault(run.job_id, [])
        run.earlier = older[::-1]
        older.append(run)
    return runs


def runs_here_and_there(client: Any, store: Store, job_ids: Collection[str] | None, grid: str) -> list[Dated]:
    """Return the runs by what the output folder has recorded, and those that it has no record of as
    MLflow has them."""
    experiment = experiment_of(client, store.experiment)
    here, where = (runs_of_experiment(store, identity_of(experiment), job_ids), experiment.experiment_id)
    deleted = (
        {run.info.run_id for run in search(client, where, "", view=DELETED_ONLY)} if here.published else set()
    )
    runs = {
        dated_run[1].run_id: dated_run for dated_run in here.published if dated_run[1].run_id not in deleted
    }
    queries = [f"attributes.status = '{FINISHED}'{condition}" for condition in conditions_without([*runs])]
    for query in (*queries, f"attributes.status = '{Status.FAILED.value}' and metrics.errors > 0"):
        for recorded in of_jobs_and_grid(client, where, query, job_ids, grid):
            if JOB_ID in recorded.data.tags and recorded.info.run_id not in runs:  # a grid's own run has none
                data, ids = (
                    recorded.data,
                    (recorded.info.run_id, recorded.info.start_time, recorded.info.status),
                )
                metrics = read_all(client, recorded.info.run_id, data.tags, data.metrics)
                runs[recorded.info.run_id] = found = run_of(*ids, data.params, data.tags, metrics)
                found[1].artifacts = recorded.info.artifact_uri or ""
    logged = {run.job_id for _, run in runs.values()}
    for job_id in sorted(here.damaged.keys() - logged):
        say(f"note: left out: {here.damaged[job_id]}")
    return [
        *runs.values(),
        *(dated_run for dated_run in here.unpublished if dated_run[1].job_id not in logged),
    ]


def last_grid(client: Any, experiment: str) -> str:
    """Return the MLflow run of the last grid that was started; empty if there is no grid."""
    grids = _grids(client, experiment)
    return grids[0].info.run_id if grids else ""


def _grids(client: Any, experiment: str) -> list[Any]:
    """Return the runs of grids, the last started first."""
    with one_message(cannot_read):
        experiment_id = experiment_of(client, experiment).experiment_id
        grids = [*search(client, experiment_id, f"tags.{GRID} LIKE '%'")]
    return sorted(grids, key=_started_ms, reverse=True)


def find_grid(client: Any, experiment: str, wanted: str) -> str:
    """Return the MLflow run of the grid with this id, or of the last grid that was started."""
    grids = _grids(client, experiment)
    if not grids:
        raise ConfigError(
            f"no grid in experiment {experiment} yet", key="--grid", value=wanted, code="not_found"
        )
    matching = [
        grid
        for grid in grids
        if grid.info.run_id.startswith(wanted) or grid.data.tags[GRID].startswith(wanted)
    ]
    if wanted == LAST:
        matching = grids[:1]
    if len(matching) != 1:
        count = "several grids begin with it" if matching else "no grid has this run id"
        listed = ", ".join(
            f"{grid_run.info.run_id} ({grid_run.info.run_name})" for grid_run in (matching or grids)[:6]
        )
        raise ConfigError(
            f"{count}. Newest first: {listed}",
            key="--grid",
            value=wanted,
            code="ambiguous" if matching else "not_found",
        )
    run_id: str = matching[0].info.run_id
    return run_id


def _started_ms(grid_run: Any) -> int:
    """Return when a grid was started last: one that is started again goes on in its first run."""
    return int(grid_run.data.tags.get(GRID_STARTED_MS, grid_run.info.start_time))


def runs_of(client: Any, store: Store, grid: str, plan: GridPlan | None) -> list[Run]:
    """Return a grid's runs: those that it ran, and earlier runs of jobs that were already done."""
    planned = set(plan.job_ids) if plan is not None else None
    runs = load_runs(client, store, planned, grid)
    of_grid = [run for run in runs if run.grid == grid]
    earlier = (planned or set()) - {run.job_id for run in of_grid}
    return of_grid + [run for run in runs if run.job_id in earlier]


def grid_to_log_to(runs: list[Run]) -> str:
    grids = sorted({run.grid for run in runs if run.grid})
    if len(grids) == 1:
        return grids[0]
    if not grids:
        raise ConfigError(
            "these runs belong to no grid; --save FOLDER keeps the comparison in a folder",
            key="--log",
            code="not_found",
        )
    raise ConfigError(
        f"these runs belong to {len(grids)} grids ({', '.join(grids[:4])}): choose one with --grid",
        key="--log",
        code="ambiguous",
    )
