"""The MLflow runs of grids: one parent run for the jobs of each grid, reused whenever the grid is
started again."""

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
from runner.tracking import begun_runs, job_runs, pending_runs, published
from runner.tracking.connection import clear_errors, connected, reachable
from runner.tracking.stored_runs import GRID, GRID_STARTED_MS, PARENT, StoredRuns, read_runs
from runner.tracking.stores import Store
from runner_base import Status, TrackingError, hold, machine, short_hash, without_secrets
from runner_base.files import is_held

log = logging.getLogger(__name__)

FIRST_METRIC = "mlflow.experiment.primaryMetric.name"
RUN_NAME, NOTE = "mlflow.runName", "mlflow.note.content"
OWN_NOTE = "runner.note"  # a tag: the hash of the description as it was written here
PLAN = "plan.json"  # an artifact of a grid's run: its jobs
GRIDS = ".grids"  # in output_dir: a lock and a file of pending runs for each grid that is running


@dataclass(frozen=True)
class GridName:
    """A grid's own name, what people call it, and what is fixed for it."""

    digest: str  # which follows from its jobs
    title: str
    params: Mapping[str, str] = field(default_factory=dict)


@dataclass
class GridRun:
    """A grid's run in one store, and the lock that shows other processes that the grid is
    running."""

    store: Store
    client: Any
    run_id: str
    lock: TextIO


def start(
    store: Store,
    grid: GridName,
    start_tags: Mapping[str, str],
    plan: Mapping[str, Any],
    done: Collection[str],
) -> GridRun:
    """Start the parent run of a grid's jobs, or reopen it; move runs of jobs that are done below
    it."""
    end_dead(store.output_dir)
    with connected(store) as (client, experiment_id):
        pending_file = store.output_dir / GRIDS / uuid.uuid4().hex
        lock = hold(pending_file.with_suffix(".lock"))
        pending = pending_runs.add(pending_file, store)
        with hold(store.output_dir / f"{GRIDS}.lock"):  # the same grid may be started twice at the same time
            stored = read_runs(store, done, grid.digest)
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
                run_id = begun_runs.create(client, experiment_id, tags)
                job_runs.log_params(client, run_id, grid.params)
        for key, value in start_tags.items():
            client.set_tag(run_id, key, value)
        client.log_dict(run_id, plan, PLAN)
        for job_id in done:
            orphan = None if stored.run_of(job_id, run_id) else stored.orphan_of(job_id)
            if orphan is not None:
                client.set_tag(orphan, PARENT, run_id)
                published.note_run(store, client, orphan)
    return GridRun(store, client, run_id, lock)


def describe_start(overrides: list[str]) -> dict[str, str]:
    """Return the tags that describe a start: when it was, overrides, machine, versions."""
    git = machine.git_state()
    return {
        GRID_STARTED_MS: str(time.time_ns() // 1_000_000),
        "overrides": without_secrets(" ".join(overrides))[:8000],
        "host": socket.gethostname(),
        **{f"machine.{key}": value for key, value in machine.describe().items()},
        **{f"version.{key}": value for key, value in machine.versions().items()},
        **git,
        **({"mlflow.source.git.commit": git["git.commit"]} if git else {}),
    }


def log_notes(
    run: GridRun, metrics: Mapping[str, float], tags: Mapping[str, str], note: str, first_metric: str
) -> None:
    """Log what a grid has come to; a description that somebody has written in MLflow stays.

    MLflow's charts begin with the experiment's first metric, and with the first by the alphabet
    where none is named.
    """
    with clear_errors(run.store):
        its_run = run.client.get_run(run.run_id)
        there, experiment = its_run.data.tags, its_run.info.experiment_id
        if first_metric and FIRST_METRIC not in run.client.get_experiment(experiment).tags:
            run.client.set_experiment_tag(experiment, FIRST_METRIC, job_runs.legal_name(first_metric))
        texts = dict(tags)
        is_own = NOTE not in there or short_hash(there[NOTE]) == there.get(OWN_NOTE)
        if is_own:
            note = note[: job_runs.MAX_TAG_CHARACTERS]
            texts |= {NOTE: note, OWN_NOTE: short_hash(note)}
        job_runs.log_facts(run.client, run.run_id, metrics, texts)


def finish(run: GridRun, status: Status, plan: Mapping[str, Any]) -> bool:
    """End the grid's run and return whether the store could be written; if not, no result is
    lost."""
    try:
        with reachable(run.store):
            run.client.log_dict(run.run_id, plan, PLAN)
            run.client.set_terminated(run.run_id, status.value)
            if status is Status.FINISHED and not any(
                job["problem"] for job in plan["jobs"]
            ):  # all jobs are there
                published.note_run(run.store, run.client, run.run_id)
    except TrackingError as error:
        log.warning("%s", error)
        return False
    else:
        _delete_files(run.lock)
        return True
    finally:
        run.lock.close()


def end_dead(output_dir: Path) -> None:
    """End the runs of this folder's grids whose process has died; if there is none, MLflow is not
    imported."""
    for path in sorted((output_dir / GRIDS).glob("*.lock")):
        with suppress(OSError), hold(path, wait=False) as lock:  # fails while the grid's process lives
            pending_file = path.with_suffix("")
            pending_runs.end_dead(pending_file, output_dir, Status.KILLED)
            if not pending_runs.any_left(pending_file):
                _delete_files(lock)
    # jobs may never be started again
    for pending_file in sorted((output_dir / "jobs").glob(f"*/{pending_runs.FILE}")):
        with suppress(OSError), hold(pending_file.with_name(LOCK), wait=False):
            pending_runs.end_dead(pending_file, output_dir, Status.KILLED)


def end_abandoned(store: Store, stored: StoredRuns) -> None:
    """End the runs that a store shows as RUNNING without a process: it was unreachable when their
    process had died."""
    locks = sorted((store.output_dir / GRIDS).glob("*.lock"))
    live_tags = set().union(*(pending_runs.tags_of(lock.with_suffix("")) for lock in locks if is_held(lock)))
    dead = []
    for run_id, tags in stored.running.items():
        job_id = tags.get("job_id")
        job_lock = store.output_dir / "jobs" / (job_id or "") / LOCK
        is_alive = is_held(job_lock) if job_id else tags.get(pending_runs.TAG) in live_tags
        dead += [run_id] if pending_runs.is_of_folder(store, tags) and not is_alive else []
    pending_runs.end_runs(store, dead, Status.KILLED)


def _delete_files(lock: TextIO) -> None:
    path = Path(lock.name)
    for file in (path.with_suffix(""), path):
        file.unlink(missing_ok=True)
