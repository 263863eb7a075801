"""Marks of what was begun in MLflow: by them the next start ends what a dead process has left RUNNING.

A mark says in which store and experiment a run was begun, and the run has it as a tag. It goes when the run has ended
there. A folder of a job, and each grid that is going on, has a file of them. A store that was away and is back may hold
runs whose marks have gone meanwhile: those are found when it is asked for its runs (look.py).
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

from runner.core.errors import RunnerError
from runner.core.result import Status
from runner.store.mlflow_store import Store, clear_errors, default_uri, find_store

log = logging.getLogger(__name__)

TAG = "begun"
FILE = ".begun"  # in a job's folder


@dataclass(frozen=True)
class PendingRun:
    """Where a run was begun, and the tag that it has there."""

    uri: str | None  # None: the database of the output folder, which may be moved
    experiment: str
    tag: str


def add(file: Path, store: Store) -> PendingRun:
    """Write down that a run is about to begin; its tag is not used twice."""
    mark = PendingRun(None if store.is_own else store.uri, store.experiment, uuid.uuid4().hex)
    _write(file, [*_read(file), mark])
    return mark


def drop(file: Path, mark: PendingRun) -> None:
    """Take a mark away, because its run has ended in the store."""
    _write(file, [other for other in _read(file) if other != mark])


def end_dead(file: Path, output_dir: Path, status: Status) -> None:
    """End the runs that a dead process left RUNNING, each in its store; the caller knows that the process is dead."""
    for mark in _read(file):
        store = Store(mark.uri or default_uri(output_dir), mark.experiment, output_dir)
        try:
            with clear_errors(store.uri):
                _end(store, mark, status)
        except RunnerError as error:
            log.warning("a run may still be RUNNING there: %s", error)
        else:
            drop(file, mark)


def end_runs(store: Store, dead: Iterable[str], status: Status) -> None:
    """End runs that a store shows as RUNNING; the caller knows that their process is dead."""
    if not (run_ids := list(dead)):
        return
    try:
        with clear_errors(store.uri):
            if (found := find_store(store)) is not None:
                for run_id in run_ids:
                    found[0].set_terminated(run_id, status.value)
    except RunnerError as error:
        log.warning("a run may still be RUNNING there: %s", error)


def is_here(store: Store, tags: dict[str, str]) -> bool:
    """Whether a run in a store, which several folders may share, is one of this folder's, wherever that has been."""
    place = Path(tags.get("output_dir", ""))
    folder = place.parents[1] if "job_id" in tags and len(place.parents) > 1 else place
    return folder == store.output_dir.resolve() or (store.is_own and not place.exists())


def left(file: Path) -> bool:
    """Whether a run may still stand there as RUNNING."""
    return bool(_read(file))


def tags_of(file: Path) -> set[str]:
    """Return the tags of the runs that were begun."""
    return {mark.tag for mark in _read(file)}


def _end(store: Store, mark: PendingRun, status: Status) -> None:
    found = find_store(store)
    if found is None:  # the database or the experiment is gone, and the run with it
        return
    client, experiment_id = found
    for run in client.search_runs([experiment_id], f"tags.{TAG} = '{mark.tag}' and attributes.status = 'RUNNING'"):
        client.set_terminated(run.info.run_id, status.value)


def _read(file: Path) -> list[PendingRun]:
    with suppress(OSError, ValueError, TypeError):
        values: list[Any] = json.loads(file.read_text(encoding="utf-8") or "[]")
        return [PendingRun(**value) for value in values]
    return []


def _write(file: Path, marks: list[PendingRun]) -> None:
    """Write in one step; a uri may hold a token, so that nobody else reads it."""
    if not marks:
        file.unlink(missing_ok=True)
        return
    fresh = file.with_name(f"{file.name}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        json.dump([asdict(mark) for mark in marks], stream)
    fresh.replace(file)
