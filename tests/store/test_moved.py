"""An output folder that is moved, also while its database is away."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

from runner.store import moved

Make = Callable[[Path], None]


def used(folder: Path, new_database: Make) -> None:
    """A folder with an MLflow database of its own and an experiment in it, as a first job leaves it."""
    new_database(folder / "mlflow.db")
    moved.mend(folder)
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
        keys = "name, artifact_location, lifecycle_stage"
        where = f"{folder.as_uri()}/mlartifacts"
        database.execute(f"insert into experiments ({keys}) values ('runner', ?, 'active')", (where,))


def place(folder: Path) -> str:
    """Where MLflow puts the files of the next run."""
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as database:
        return str(
            database.execute("select artifact_location from experiments where name = 'runner'").fetchone()[0]
        ).removesuffix("/mlartifacts")


def test_a_database_that_was_away_during_a_move_is_mended(tmp_path: Path, new_database: Make) -> None:
    first, second, third = tmp_path / "first", tmp_path / "second", tmp_path / "third"
    used(first, new_database)
    first.rename(second)
    (second / "mlflow.db").rename(tmp_path / "away")
    used(second, new_database)  # a job that finds no database makes one
    assert place(second) == second.as_uri()
    (tmp_path / "away").replace(second / "mlflow.db")
    moved.mend(second)
    assert place(second) == second.as_uri()
    second.rename(third)
    moved.mend(third)
    assert place(third) == third.as_uri()


def test_a_copy_leaves_what_was_copied_alone(tmp_path: Path, new_database: Make) -> None:
    first, copy = tmp_path / "first", tmp_path / "copy"
    used(first, new_database)
    copy.mkdir()
    for name in ("mlflow.db", moved.PLACE):
        (copy / name).write_bytes((first / name).read_bytes())
    for folder in (copy, first, copy):
        moved.mend(folder)
        assert place(folder) == folder.as_uri()


def test_places_of_others_in_the_same_database_stay(tmp_path: Path, new_database: Make) -> None:
    """Another folder that logs to this database, and of which this one was a copy once, keeps its files."""
    first, copy = tmp_path / "first", tmp_path / "copy"
    used(first, new_database)
    first.rename(copy)
    moved.mend(copy)
    used(first, new_database)
    with contextlib.closing(sqlite3.connect(copy / "mlflow.db")) as database, database:
        database.execute("update experiments set artifact_location = ?", (f"{first.as_uri()}/mlartifacts",))
    moved.mend(copy)
    assert place(copy) == first.as_uri()
