"""Runs as MLflow's sqlite database has them, which is quicker than through MLflow."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Row:
    """A run in the database."""

    run_id: str
    status: str
    experiment: str
    stage: str
    tags: dict[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def read_together(database: Path) -> Iterator[sqlite3.Connection]:
    """Open a database so that all queries see the same moment, whoever writes meanwhile.

    It is not opened read-only: sqlite has to undo what a killed process has left half written.
    """
    uri = f"file:{database}?mode=rw"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=60)) as connection:
        connection.execute("begin")
        yield connection


def rows(database: Path) -> list[Row]:
    """Return all runs, the oldest first."""
    query = """select run_uuid, status, experiments.name, runs.lifecycle_stage from runs join experiments
               using (experiment_id) order by runs.start_time, runs.rowid"""
    with read_together(database) as connection:
        by_id = {run_id: Row(run_id, *rest) for run_id, *rest in connection.execute(query)}
        for run_id, key, value in connection.execute("select run_uuid, key, value from tags"):
            by_id[run_id].tags[key] = value
    return list(by_id.values())


def jobs(database: Path, **tags: str) -> list[Row]:
    """Return the runs of jobs."""
    return [row for row in rows(database) if "job_id" in row.tags and tags.items() <= row.tags.items()]


def grids(database: Path) -> list[Row]:
    """Return the runs of grids."""
    return [row for row in rows(database) if "grid" in row.tags]
