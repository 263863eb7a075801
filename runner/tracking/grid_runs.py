"""MLflow runs of grids: one parent run per grid, which is reused when the grid is started again."""

from __future__ import annotations

import logging
import socket
import time
import uuid
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from runner.records.jobs import LOCK
from runner.tracking import job_runs, pending_runs, published_index, resumed_runs
from runner.tracking.connection import (
    connect_to_store,
    convert_store_errors_to_tracking_error,
    require_reachable_store,
)
from runner.tracking.stored_runs import GRID, GRID_STARTED_MS, PARENT, StoredRuns, read_stored_runs
from runner.tracking.stores import Store
from runner_base import Status, TrackingError, compute_short_json_hash, lock_file, machine, redact_secrets
from runner_base.files import is_locked

log = logging.getLogger(__name__)

FIRST_METRIC = "mlflow.experiment.primaryMetric.name"
RUN_NAME, NOTE = "mlflow.runName", "mlflow.note.content"
OWN_NOTE = "runner.note"  # a tag: the hash of the description as it was written here
PLAN = "plan.json"  # an artifact of a grid's run: its jobs
GRIDS = ".grids"  # in output_dir: a lock and a file of pending runs for each grid that is running


@dataclass(frozen=True)
class GridName:
    """Hash, title and MLflow params that identify a grid."""

    digest: str  # which follows from its jobs
    title: str
    params: Mapping[str, str] = field(default_factory=dict)


@dataclass
class GridRun:
    """Parent run of a grid in one store. The process of a running grid holds the run's lock."""

    store: Store
    client: Any
    run_id: str
    lock: TextIO


def start_grid_run(
    store: Store,
    grid: GridName,
    start_tags: Mapping[str, str],
    plan: Mapping[str, Any],
    finished_job_ids: Collection[str],
) -> GridRun:
    """Start or reopen a grid's parent run, and make the runs of finished jobs its child runs."""
    end_runs_of_dead_grids(store.output_dir)
    with connect_to_store(store) as (client, experiment_id):
        pending_file = store.output_dir / GRIDS / uuid.uuid4().hex
        lock = lock_file(pending_file.with_suffix(".lock"))
        pending = pending_runs.add_pending_run(pending_file, store)
        with lock_file(
            store.output_dir / f"{GRIDS}.lock"
        ):  # the same grid may be started twice at the same time
            stored = read_stored_runs(store, finished_job_ids, grid.digest)
            run_id = next((run for run, _ in stored.grids.get(grid.digest, [])), None)
            if run_id is not None:
                client.set_tag(run_id, pending_runs.TAG, pending.tag)
                client.update_run(run_id, status="RUNNING")
            else:
                tags = {
                    GRID: grid.digest,
                    pending_runs.TAG: pending.tag,
                    "output_dir": str(store.output_dir.resolve()),
                    RUN_NAME: grid.title,
                    "mlflow.source.name": "runner",
                }
                run_id = resumed_runs.create_run_once(client, experiment_id, tags)
                job_runs.log_params(client, run_id, grid.params)
        for key, value in start_tags.items():
            client.set_tag(run_id, key, value)
        client.log_dict(run_id, plan, PLAN)
        for job_id in finished_job_ids:
            orphan = (
                None if stored.find_run(job_id, run_id) else stored.find_run_without_existing_parent(job_id)
            )
            if orphan is not None:
                client.set_tag(orphan, PARENT, run_id)
                published_index.add_run_to_index(store, client, orphan)
    return GridRun(store, client, run_id, lock)


def build_grid_start_tags(overrides: list[str]) -> dict[str, str]:
    """Return the MLflow tags of a grid's start: time, overrides, machine and versions."""
    git = machine.read_git_state()
    return {
        GRID_STARTED_MS: str(time.time_ns() // 1_000_000),
        "overrides": redact_secrets(" ".join(overrides))[:8000],
        "host": socket.gethostname(),
        **{f"machine.{key}": value for key, value in machine.describe_machine().items()},
        **{f"version.{key}": value for key, value in machine.library_versions().items()},
        **git,
        **({"mlflow.source.git.commit": git["git.commit"]} if git else {}),
    }


def log_grid_results(
    run: GridRun, metrics: Mapping[str, float], tags: Mapping[str, str], note: str, first_metric: str
) -> None:
    """Log a grid's results to its parent run. A description that a user wrote in MLflow is kept.

    MLflow's charts begin with the experiment's first metric, or alphabetically if none is named.
    """
    with convert_store_errors_to_tracking_error(run.store):
        its_run = run.client.get_run(run.run_id)
        there, experiment = its_run.data.tags, its_run.info.experiment_id
        if first_metric and FIRST_METRIC not in run.client.get_experiment(experiment).tags:
            run.client.set_experiment_tag(
                experiment, FIRST_METRIC, job_runs.sanitize_mlflow_name(first_metric)
            )
        texts = dict(tags)
        is_own = NOTE not in there or compute_short_json_hash(there[NOTE]) == there.get(OWN_NOTE)
        if is_own:
            note = note[: job_runs.MAX_TAG_CHARACTERS]
            texts |= {NOTE: note, OWN_NOTE: compute_short_json_hash(note)}
        job_runs.log_metrics_and_tags(run.client, run.run_id, metrics, texts)


def finish_grid_run(run: GridRun, status: Status, plan: Mapping[str, Any]) -> bool:
    """End a grid's parent run. Returns False if the store cannot be written."""
    try:
        with require_reachable_store(run.store):
            run.client.log_dict(run.run_id, plan, PLAN)
            run.client.set_terminated(run.run_id, status.value)
            if status is Status.FINISHED and not any(
                job["problem"] for job in plan["jobs"]
            ):  # all jobs are there
                published_index.add_run_to_index(run.store, run.client, run.run_id)
    except TrackingError as error:
        log.warning("%s", error)
        return False
    else:
        _delete_lock_files(run.lock)
        return True
    finally:
        run.lock.close()


def end_runs_of_dead_grids(output_dir: Path) -> None:
    """End the MLflow runs that dead grid processes left open in this folder.

    Imports MLflow only if such runs exist.
    """
    for path in sorted((output_dir / GRIDS).glob("*.lock")):
        with (
            suppress(OSError),
            lock_file(path, should_wait=False) as lock,
        ):  # fails while the grid's process lives
            pending_file = path.with_suffix("")
            pending_runs.end_pending_runs(pending_file, output_dir, Status.KILLED)
            if not pending_runs.has_pending_runs(pending_file):
                _delete_lock_files(lock)
    # jobs may never be started again
    for pending_file in sorted((output_dir / "jobs").glob(f"*/{pending_runs.FILE}")):
        with suppress(OSError), lock_file(pending_file.with_name(LOCK), should_wait=False):
            pending_runs.end_pending_runs(pending_file, output_dir, Status.KILLED)


def end_abandoned_runs(store: Store, stored_runs: StoredRuns) -> None:
    """End runs whose status is still RUNNING in a store although their process is dead."""
    locks = sorted((store.output_dir / GRIDS).glob("*.lock"))
    live_tags = set().union(
        *(pending_runs.read_pending_tags(lock.with_suffix("")) for lock in locks if is_locked(lock))
    )
    dead = []
    for run_id, tags in stored_runs.running.items():
        job_id = tags.get("job_id")
        job_lock = store.output_dir / "jobs" / (job_id or "") / LOCK
        is_alive = is_locked(job_lock) if job_id else tags.get(pending_runs.TAG) in live_tags
        dead += [run_id] if pending_runs.belongs_to_output_folder(store, tags) and not is_alive else []
    pending_runs.end_running_runs(store, dead, Status.KILLED)


def _delete_lock_files(lock: TextIO) -> None:
    path = Path(lock.name)
    for file in (path.with_suffix(""), path):
        file.unlink(missing_ok=True)
