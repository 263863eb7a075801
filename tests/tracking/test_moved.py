"""Output folders that are moved, also while their database is missing."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

from runner.tracking import moved_folders

Make = Callable[[Path], None]


def used(folder: Path, new_database: Make) -> None:
    """Create a folder with an MLflow database and an experiment in it, as a first job leaves it."""
    new_database(folder / "mlflow.db")
    moved_folders.repair_paths_after_folder_move(folder)
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
        keys = "name, artifact_location, lifecycle_stage"
        artifacts = f"{folder.as_uri()}/mlartifacts"
        database.execute(f"insert into experiments ({keys}) values ('runner', ?, 'active')", (artifacts,))


def artifact_folder(folder: Path) -> str:
    """Return where MLflow puts the files of the next run."""
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as database:
        return str(
            database.execute("select artifact_location from experiments where name = 'runner'").fetchone()[0]
        ).removesuffix("/mlartifacts")


def test_a_database_that_was_missing_during_a_move_is_corrected(tmp_path: Path, new_database: Make) -> None:
    first, second, third = tmp_path / "first", tmp_path / "second", tmp_path / "third"
    used(first, new_database)
    first.rename(second)
    (second / "mlflow.db").rename(tmp_path / "away")
    used(second, new_database)  # a job creates a missing database
    assert artifact_folder(second) == second.as_uri()
    (tmp_path / "away").replace(second / "mlflow.db")
    moved_folders.repair_paths_after_folder_move(second)
    assert artifact_folder(second) == second.as_uri()
    second.rename(third)
    moved_folders.repair_paths_after_folder_move(third)
    assert artifact_folder(third) == third.as_uri()


def test_a_copy_leaves_the_original_alone(tmp_path: Path, new_database: Make) -> None:
    first, copy = tmp_path / "first", tmp_path / "copy"
    used(first, new_database)
    copy.mkdir()
    for name in ("mlflow.db", moved_folders.PLACE):
        (copy / name).write_bytes((first / name).read_bytes())
    for folder in (copy, first, copy):
        moved_folders.repair_paths_after_folder_move(folder)
        assert artifact_folder(folder) == folder.as_uri()


def test_paths_of_other_folders_in_the_same_database_stay(tmp_path: Path, new_database: Make) -> None:
    """Another folder that logs to this database keeps its files, even if this folder once was a
    copy of it."""
    first, copy = tmp_path / "first", tmp_path / "copy"
    used(first, new_database)
    first.rename(copy)
    moved_folders.repair_paths_after_folder_move(copy)
    used(first, new_database)
    with contextlib.closing(sqlite3.connect(copy / "mlflow.db")) as database, database:
        database.execute("update experiments set artifact_location = ?", (f"{first.as_uri()}/mlartifacts",))
    moved_folders.repair_paths_after_folder_move(copy)
    assert artifact_folder(copy) == first.as_uri()
