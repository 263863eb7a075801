"""Lists started MLflow runs in a file, so that runs of dead processes can be ended later.

An entry names the store and the experiment of a run, and a tag that the run has there. It is
removed when the run has ended. Each job's folder and each running grid has a file of such
entries. A store that was unreachable for a while may have runs without an entry: these are
found when its runs are read (stored_runs.py).
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runner.tracking.connection import connect_for_reading
from runner.tracking.stores import Store, default_sqlite_uri
from runner_base import RunnerError, Status
from runner_base.files import replace_atomically

log = logging.getLogger(__name__)

TAG = "begun"
DIED = "process_died"  # a tag: "true" if the run ended because its process died
FILE = ".begun"  # in a job's folder


@dataclass(frozen=True)
class PendingRun:
    """Store, experiment and unique tag of a started MLflow run."""

    uri: str | None  # None: the database of the output folder, which may be moved
    experiment: str
    tag: str


def add_pending_run(pending_file: Path, store: Store) -> PendingRun:
    """Append a run to the file of pending runs. Call this before the run is created in MLflow."""
    pending = PendingRun(None if store.is_default_database else store.uri, store.experiment, uuid.uuid4().hex)
    _write_pending_runs(pending_file, [*_read_entries(pending_file), pending])
    return pending


def remove_pending_run(pending_file: Path, pending: PendingRun) -> None:
    _write_pending_runs(pending_file, [other for other in _read_entries(pending_file) if other != pending])


def end_pending_runs(pending_file: Path, output_dir: Path, status: Status) -> None:
    """End all MLflow runs that the file lists. Call this only if their process is dead."""
    for pending in _read_entries(pending_file):
        store = Store(pending.uri or default_sqlite_uri(output_dir), pending.experiment, output_dir)
        try:
            _end_run(store, pending, status)
        except RunnerError as error:
            log.warning("a run may still have the status RUNNING in MLflow: %s", error)
        else:
            remove_pending_run(pending_file, pending)


def end_running_runs(store: Store, run_ids_to_end: Iterable[str], status: Status) -> None:
    """End the given MLflow runs if their status is RUNNING. Call this only if their process is
    dead.
    """
    if not (run_ids := list(run_ids_to_end)):
        return
    try:
        with connect_for_reading(store) as experiment:
            if experiment is not None:
                for run_id in run_ids:
                    experiment.client.set_terminated(run_id, status.value)
    except RunnerError as error:
        log.warning("a run may still have the status RUNNING in MLflow: %s", error)


def belongs_to_output_folder(store: Store, tags: dict[str, str]) -> bool:
    """Return whether a run belongs to the store's output folder, even if the folder was moved."""
    path = Path(tags.get("output_dir", ""))
    folder = path.parents[1] if "job_id" in tags and len(path.parents) > 1 else path
    return folder == store.output_dir.resolve() or (store.is_default_database and not path.exists())


def has_pending_runs(pending_file: Path) -> bool:
    return bool(_read_entries(pending_file))


def read_pending_tags(pending_file: Path) -> set[str]:
    return {pending.tag for pending in _read_entries(pending_file)}


def _end_run(store: Store, pending: PendingRun, status: Status) -> None:
    with connect_for_reading(store) as experiment:
        if experiment is None:  # the database or the experiment was deleted, and the run with it
            return
        is_pending = f"tags.{TAG} = '{pending.tag}' and attributes.status = 'RUNNING'"
        for run in experiment.client.search_runs([experiment.id], is_pending):
            experiment.client.set_tag(run.info.run_id, DIED, "true")
            experiment.client.set_terminated(run.info.run_id, status.value)


def _read_entries(file: Path) -> list[PendingRun]:
    with suppress(OSError, ValueError, TypeError):
        values: list[Any] = json.loads(file.read_text(encoding="utf-8") or "[]")
        return [PendingRun(**value) for value in values]
    return []


def _write_pending_runs(pending_file: Path, pending_runs: list[PendingRun]) -> None:
    """Write the list atomically. Only the user can read the file, because a store's URI may contain a
    token.
    """
    if not pending_runs:
        pending_file.unlink(missing_ok=True)
        return

    def write_json(fresh: Path) -> None:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            json.dump([asdict(run) for run in pending_runs], stream)

    replace_atomically(pending_file, write_json, make_parents=False)
