"""The finished runs and the grids of an MLflow store, as far as a comparison needs them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.compare.data import JOB_ID, Run
from runner.compare.runs import download
from runner.core.errors import ConfigError, one_line, unknown
from runner.core.texts import parse_json
from runner.core.uris import sqlite_path
from runner.store import sqlite_runs
from runner.store.mlflow_store import Store, one_message
from runner.store.sqlite_runs import StoredRun
from runner.store.stored_runs import GRID, PARENT, of_jobs, search

if TYPE_CHECKING:
    from mlflow import MlflowClient as Client

LAST = "last"


def load_runs(client: Client, store: Store, job_ids: Collection[str] | None = None, grid: str = "") -> list[Run]:
    """Return the finished runs, newest first, then runs with errors of jobs that have never finished.

    A job that ran twice occurs twice, and each run has its earlier runs. With `job_ids`, only runs of these
    jobs and of the grid.
    """
    same: dict[str, str] = {}  # most keys and values of runs are the same texts
    finished_runs = stored(client, store, "FINISHED", job_ids, grid)
    runs = [_run(it, same) for it in finished_runs if JOB_ID in it.tags]  # a grid's parent run has none
    finished = {run.job_id for run in runs}
    failed = stored(client, store, "FAILED", job_ids, grid, " and metrics.errors > 0")
    erred = [
        _run(it, same)
        for it in failed
        if it.metrics.get("errors", 0) > 0 and it.tags.get(JOB_ID, "") not in ("", *finished)
    ]
    runs += [replace(run, errors=int(run.metrics["errors"])) for run in erred]
    if not runs and job_ids is None:
        raise ConfigError(f"--experiment {store.experiment}: no finished run in it yet")
    by_job: dict[str, list[Run]] = {}
    for run in reversed(runs):  # from the oldest on
        older = by_job.setdefault(run.job_id, [])
        run.earlier = older[::-1]
        older.append(run)
    return runs


def stored(
    client: Client, store: Store, status: str, job_ids: Collection[str] | None, grid: str, condition: str = ""
) -> Iterator[StoredRun]:
    """Yield the runs with a status, of all jobs or some and of a grid, the newest first.

    `condition` is added where MLflow's client is asked: it saves runs that are not wanted.
    """
    file = sqlite_path(store.uri)
    query = f"attributes.status = '{status}'{condition}"
    with one_message(cannot_read):
        experiment_id = experiment_id_of(client, store.experiment)
        if file is not None and sqlite_runs.HAS_JSON:
            yield from sqlite_runs.whole_runs(file, experiment_id, status, job_ids, grid)
            return
        if job_ids is None:
            found: Iterable[Any] = search(client, experiment_id, query)
        else:
            below = search(client, experiment_id, f"{query} and tags.`{PARENT}` = '{grid}'")
            each = {
                it.info.run_id: it
                for it in chain(below, of_jobs(client, experiment_id, query, job_ids, lambda run: run))
            }
            found = sorted(each.values(), key=lambda it: (-it.info.start_time, it.info.run_id))
        for item in found:
            data = item.data
            yield StoredRun(item.info.run_id, item.info.artifact_uri or "", data.params, data.tags, data.metrics)


def experiment_id_of(client: Client, experiment: str) -> str:
    """Return the id of an experiment, or raise ConfigError with the names there are."""
    found = client.get_experiment_by_name(experiment)
    if found is None:
        names = [item.name for item in client.search_experiments()]
        raise ConfigError(f"--experiment {experiment}: {unknown('experiment', experiment, names)}")
    return str(found.experiment_id)


def cannot_read(text: str) -> str:
    """Return the message about a store that fails."""
    return f"cannot read the MLflow store: {text}"


def _run(it: StoredRun, same: dict[str, str]) -> Run:
    """Return a run of a comparison; `same` has each text once."""
    tags, one = it.tags, same.setdefault
    return Run(
        run_id=it.run_id,
        job_id=tags[JOB_ID],
        task=tags.get("task", "unknown"),
        task_version=tags.get("task_version", ""),
        folder=tags.get("output_dir", ""),
        params={one(key, key): one(value, value) for key, value in it.params.items()},
        metrics={one(key, key): value for key, value in it.metrics.items()},
        grid=one(parent := tags.get(PARENT, ""), parent),
        artifacts=it.artifacts,
        facts={
            one(key, key).removeprefix("fact."): one(value, value)
            for key, value in tags.items()
            if key.startswith("fact.")
        },
    )


def find_grid(client: Client, experiment: str, wanted: str) -> str:
    """Return the MLflow run of the grid with this id, or of the last grid that was started."""
    with one_message(cannot_read):
        grids = [*search(client, experiment_id_of(client, experiment), f"tags.{GRID} LIKE '%'")]
    if not grids:
        raise ConfigError(f"--grid {wanted}: no grid in experiment {experiment} yet")
    matching = [it for it in grids if it.info.run_id.startswith(wanted) or it.data.tags[GRID].startswith(wanted)]
    if wanted == LAST:
        matching = grids[:1]
    if len(matching) != 1:
        count = "several grids begin with it" if matching else "no grid has this run id"
        listed = ", ".join(f"{it.info.run_id} ({it.info.run_name})" for it in (matching or grids)[:6])
        raise ConfigError(f"--grid {wanted}: {count}. Newest first: {listed}")
    run_id: str = matching[0].info.run_id
    return run_id


def runs_of(client: Client, store: Store, grid: str, scratch: Path) -> list[Run]:
    """Return a grid's runs: those that it ran, and earlier runs of jobs that were already done."""
    plan = download(client, grid, "plan.json", scratch / grid)
    try:
        listed = parse_json(plan.read_text(encoding="utf-8"))["jobs"] if plan is not None else []
        planned = {job["job_id"] for job in listed if job["job_id"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"plan.json of the grid's run in MLflow is damaged ({one_line(error, limit=100)})"
        raise ConfigError(f"--grid {grid}: {what}: name its jobs with --runs or --where") from error
    runs = load_runs(client, store, planned if plan is not None else None, grid)
    mine = [run for run in runs if run.grid == grid]
    earlier = planned - {run.job_id for run in mine}
    chosen = mine + [run for run in runs if run.job_id in earlier]
    if not chosen:
        raise ConfigError(f"--grid {grid}: none of its jobs has finished")
    return chosen


def grid_to_log_to(runs: list[Run]) -> str:
    """Return the one grid that all these runs belong to."""
    grids = sorted({run.grid for run in runs if run.grid})
    if len(grids) == 1:
        return grids[0]
    if not grids:
        raise ConfigError("--log: these runs belong to no grid; --save FOLDER keeps the comparison in a folder")
    raise ConfigError(
        f"--log: these runs belong to {len(grids)} grids ({', '.join(grids[:4])}): choose one with --grid"
    )
