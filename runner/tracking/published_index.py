"""Keeps an index of the MLflow runs and models that an output folder has created, as JSON lines.

With it, the folder's records replace their runs, which MLflow's client reads much more slowly.
Entries that the index lacks, of another host or an earlier version, are read from MLflow; so
nothing is lost with the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runner.tracking.stored_runs import GRID, JOB_ID, PARENT
from runner.tracking.stores import Store

FILE = ".published.jsonl"  # in the output folder


@dataclass(frozen=True)
class PublishedEntry:
    """Index entry of a run or model in MLflow."""

    key: str  # the id of the job, the name of the grid, or the digest of the model
    mlflow_id: str
    experiment: str  # its name
    identity: (
        str  # what no other experiment has, wherever its database is moved: names and ids are used again
    )
    time_ms: int  # when the run was started, or the model was found
    parent: str | None
    database: str  # the state of sqlite's file; empty: of another store


def experiment_identity(experiment: Any) -> str:
    """Return an experiment's id and creation time, which together identify the experiment."""
    return f"{experiment.experiment_id} {experiment.creation_time}"


def add_run_to_index(store: Store, client: Any, run_id: str) -> None:
    """Add an MLflow run and its current state to the index."""
    run = client.get_run(run_id)
    experiment, tags = client.get_experiment(run.info.experiment_id), run.data.tags
    key, identity = tags.get(JOB_ID) or tags[GRID], experiment_identity(experiment)
    append_index_entry(
        store,
        PublishedEntry(
            key,
            run_id,
            experiment.name,
            identity,
            run.info.start_time,
            tags.get(PARENT),
            get_sqlite_fingerprint(store),
        ),
    )


def append_index_entry(store: Store, entry: PublishedEntry) -> None:
    """Append an entry to the index. Write errors are ignored, because MLflow can be queried instead."""
    file = store.output_dir / FILE
    with suppress(OSError):
        if file.is_file() or not file.exists():  # a pipe would wait for its reader
            with file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(asdict(entry)) + "\n")


def read_index_entries(output_dir: Path, key: str = "") -> Iterator[PublishedEntry]:
    """Yield the index entries, or only the entries with `key`. Incomplete lines are skipped."""
    file = output_dir / FILE
    with suppress(OSError):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else ():
            if key in line:
                with suppress(ValueError, TypeError):
                    published = PublishedEntry(**json.loads(line))
                    if key in ("", published.key):
                        yield published


def find_current_published_entry(store: Store, key: str) -> PublishedEntry | None:
    """Return the latest index entry with this key.

    Returns None if the store has changed since that entry was written.
    """
    now = store.experiment, get_sqlite_fingerprint(store)
    found = [
        run for run in read_index_entries(store.output_dir, key) if (run.experiment, run.database) == now
    ]
    return found[-1] if found else None


def get_sqlite_fingerprint(store: Store) -> str:
    """Return a fingerprint that changes whenever the sqlite database is written. Empty for other stores."""
    if (file := store.sqlite_file) is None:
        return ""
    stats = [
        database_file.stat()
        for database_file in (file, file.with_name(f"{file.name}-wal"))
        if database_file.exists()
    ]
    return " ".join(f"{stat.st_ino}-{stat.st_size}-{stat.st_mtime_ns}" for stat in stats)
