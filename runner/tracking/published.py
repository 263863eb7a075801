"""What an output folder has published to MLflow: an index of our own, a line for each run and each
model.

With it the folder's records stand for their runs, which MLflow's client reads much more slowly.
What the index does not have, of another host or an earlier version, is asked for; so nothing is
lost with the file.
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
class Published:
    """A run or a model as it was in MLflow when the line was written."""

    key: str  # the id of the job, the name of the grid, or the digest of the model
    mlflow_id: str
    experiment: str  # its name
    identity: (
        str  # what no other experiment has, wherever its database is moved: names and ids are used again
    )
    time_ms: int  # when the run was started, or the model was found
    parent: str | None
    database: str  # the state of sqlite's file; empty: of another store


def identity_of(experiment: Any) -> str:
    """Return what no other experiment has."""
    return f"{experiment.experiment_id} {experiment.creation_time}"


def note_run(store: Store, client: Any, run_id: str) -> None:
    """Note that the run of a job or a grid is in a store, as it is there now."""
    run = client.get_run(run_id)
    experiment, tags = client.get_experiment(run.info.experiment_id), run.data.tags
    key, identity = tags.get(JOB_ID) or tags[GRID], identity_of(experiment)
    note(
        store,
        Published(
            key, run_id, experiment.name, identity, run.info.start_time, tags.get(PARENT), state_of(store)
        ),
    )


def note(store: Store, line: Published) -> None:
    """Append a line; where that is not possible, MLflow is asked the next time."""
    file = store.output_dir / FILE
    with suppress(OSError):
        if file.is_file() or not file.exists():  # a pipe would wait for its reader
            with file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(asdict(line)) + "\n")


def noted(output_dir: Path, key: str = "") -> Iterator[Published]:
    """Yield what was noted, of everything or one key; a line that a kill has left incomplete is
    skipped."""
    file = output_dir / FILE
    with suppress(OSError):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else ():
            if key in line:
                with suppress(ValueError, TypeError):
                    published = Published(**json.loads(line))
                    if key in ("", published.key):
                        yield published


def unchanged(store: Store, key: str) -> Published | None:
    """Return what was noted last in the store's experiment, if its database is as it was then."""
    now = store.experiment, state_of(store)
    found = [run for run in noted(store.output_dir, key) if (run.experiment, run.database) == now]
    return found[-1] if found else None


def state_of(store: Store) -> str:
    """Return what every write to a sqlite store changes; empty for other stores."""
    if (file := store.file) is None:
        return ""
    stats = [
        database_file.stat()
        for database_file in (file, file.with_name(f"{file.name}-wal"))
        if database_file.exists()
    ]
    return " ".join(f"{stat.st_ino}-{stat.st_size}-{stat.st_mtime_ns}" for stat in stats)
