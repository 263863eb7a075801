"""The MLflow runs of grids: one above the jobs of each grid, the same one whenever that grid is started again."""

from __future__ import annotations

import logging
import socket
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from runner.core import machine
from runner.core.errors import TrackingError
from runner.core.files import hold, is_held
from runner.core.result import Status
from runner.core.uris import without_secrets
from runner.store import pending_runs
from runner.store.jobs import LOCK
from runner.store.look import GRID, PARENT, StoredRuns, look
from runner.store.mlflow_store import Store, clear_errors, open_store, probe

log = logging.getLogger(__name__)

GRIDS = ".grids"  # in output_dir: a lock and the marks of each grid that is going on


@dataclass
class GridRun:
    """A grid's run in one store, and the lock by which others see that its process lives."""

    store: Store
    client: Any
    run_id: str
    alive: TextIO


def start(store: Store, grid: str, overrides: list[str], plan: list[dict[str, Any]], done: Iterable[str]) -> GridRun:
    """Open the run above a grid's jobs, or open it again; runs of jobs that are done come to stand below it."""
    with clear_errors(store.uri):
        end_dead(store.output_dir)
        client, experiment_id = open_store(store)
        marks = store.output_dir / GRIDS / uuid.uuid4().hex
        alive = hold(marks.with_suffix(".lock"))
        mark = pending_runs.add(marks, store)
        with hold(store.output_dir / f"{GRIDS}.lock"):  # the same grid may be started twice at once
            held = look(store)
            run_id = next((run for run, _ in held.grids.get(grid, [])), None)
            if run_id is not None:
                client.set_tag(run_id, pending_runs.TAG, mark.tag)
                client.update_run(run_id, status="RUNNING")
            else:
                tags = {
                    GRID: grid,
                    pending_runs.TAG: mark.tag,
                    "output_dir": str(store.output_dir.resolve()),
                    "mlflow.runName": f"grid of {len(plan)} jobs",
                    "mlflow.source.name": "runner",
                }
                run_id = client.create_run(experiment_id, tags=tags).info.run_id
        for key, value in _about(overrides).items():
            client.set_tag(run_id, key, value)
        client.log_dict(run_id, {"jobs": plan}, "plan.json")
        for job_id in done:
            orphan = None if held.run_of(job_id, run_id) else held.orphan_of(job_id)
            if orphan is not None:
                client.set_tag(orphan, PARENT, run_id)
    return GridRun(store, client, run_id, alive)


def _about(overrides: list[str]) -> dict[str, str]:
    """Describe a start: what was asked for, and on what it runs."""
    git = machine.git_state()
    return {
        "overrides": without_secrets(" ".join(overrides))[:8000],
        "host": socket.gethostname(),
        **{f"machine.{key}": value for key, value in machine.describe().items()},
        **{f"version.{key}": value for key, value in machine.versions().items()},
        **git,
        **({"mlflow.source.git.commit": git["git.commit"]} if git else {}),
    }


def finish(run: GridRun, status: Status, plan: list[dict[str, Any]]) -> bool:
    """End the grid's run, and return whether the store has it so; one that fails here costs no result."""
    try:
        with clear_errors(run.store.uri):
            probe(run.store.uri)
            run.client.log_dict(run.run_id, {"jobs": plan}, "plan.json")
            run.client.set_terminated(run.run_id, status.value)
    except TrackingError as error:
        log.warning("%s", error)
        return False
    else:
        _forget(run.alive)
        return True
    finally:
        run.alive.close()


def end_dead(output_dir: Path) -> None:
    """End the runs of this folder's grids whose process is gone; without such a grid, MLflow is not even imported."""
    for lock in sorted((output_dir / GRIDS).glob("*.lock")):
        with suppress(OSError), hold(lock, wait=False) as alive:  # refused while its process lives
            marks = lock.with_suffix("")
            pending_runs.end_dead(marks, output_dir, Status.KILLED)
            if not pending_runs.left(marks):
                _forget(alive)
    for marks in sorted((output_dir / "jobs").glob(f"*/{pending_runs.FILE}")):  # of jobs that nobody may ask for again
        with suppress(OSError), hold(marks.with_name(LOCK), wait=False):
            pending_runs.end_dead(marks, output_dir, Status.KILLED)


def end_left(store: Store, held: StoredRuns) -> None:
    """End what the store shows as RUNNING though nobody is doing it: it was away when its process was missed."""
    locks = sorted((store.output_dir / GRIDS).glob("*.lock"))
    alive = set().union(*(pending_runs.tags_of(lock.with_suffix("")) for lock in locks if is_held(lock)))
    dead = []
    for run_id, tags in held.running.items():
        job_id = tags.get("job_id")
        lives = is_held(store.output_dir / "jobs" / job_id / LOCK) if job_id else tags.get(pending_runs.TAG) in alive
        dead += [run_id] if pending_runs.is_here(store, tags) and not lives else []
    pending_runs.end_runs(store, dead, Status.KILLED)


def _forget(alive: TextIO) -> None:
    lock = Path(alive.name)
    for file in (lock.with_suffix(""), lock):
        file.unlink(missing_ok=True)
