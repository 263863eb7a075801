"""Repairs the absolute paths in the MLflow database of a moved or copied output folder."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path

PLACE = ".place"  # in the output folder: the paths under which it was used, separated by NUL, the latest last
LOCATIONS = (("experiments", "artifact_location"), ("runs", "artifact_uri"))


def repair_paths_after_folder_move(output_dir: Path) -> None:
    """Correct the absolute paths in the MLflow database of a moved or copied output folder.

    No other process may use the database at the same time. Earlier paths are stored: the database may
    be missing when the folder is first used under its new path, and be restored later.
    """
    here, note = str(output_dir.resolve()), output_dir / PLACE
    with suppress(OSError, sqlite3.DatabaseError):  # a read-only folder stays as it is
        noted = note.read_text(encoding="utf-8") if note.is_file() else ""
        if noted == here or (note.exists() and not note.is_file()):
            return
        *earlier, last = noted.split("\0")
        for folder in [*(folder for folder in earlier if not Path(folder).exists()), last]:
            if folder not in ("", here):
                _rewrite_paths(output_dir / "mlflow.db", Path(folder), Path(here))
        places = "\0".join(folder for folder in dict.fromkeys((*earlier, last)) if folder not in ("", here))
        if (to_note := f"{places}\0{here}" if places else here) != noted:
            note.write_text(to_note, encoding="utf-8")


def _rewrite_paths(database: Path, old: Path, new: Path) -> None:
    with closing(sqlite3.connect(database, timeout=10)) as connection, connection:
        if not _has_experiment_in_folder(
            connection, f"{old.as_uri()}/"
        ):  # an update would wait for other writers in vain
            return
        for table, column in LOCATIONS:
            _replace_column_prefix(
                connection, f"update {table} set {column} = ", column, f"{old.as_uri()}/", f"{new.as_uri()}/"
            )
        tags = "update tags set value = "
        _replace_column_prefix(connection, tags, "value", f"{old}/", f"{new}/", " and key = 'output_dir'")


def _has_experiment_in_folder(connection: sqlite3.Connection, folder: str) -> bool:
    """Return whether a database contains experiments whose artifacts are in this folder. False for an
    empty database.
    """
    if not connection.execute("select 1 from sqlite_master where name = 'experiments'").fetchone():
        return False
    query = "select 1 from experiments where substr(artifact_location, 1, ?) = ?"
    return connection.execute(query, (len(folder), folder)).fetchone() is not None


def _replace_column_prefix(
    connection: sqlite3.Connection,
    update_clause: str,
    column: str,
    old: str,
    new: str,
    extra_condition: str = "",
) -> None:
    """Replace a path prefix in the values of a database column.

    LIKE is unsuitable, because paths may contain %.
    """
    condition = f" where substr({column}, 1, ?) = ?{extra_condition}"
    values = (new, len(old) + 1, len(old), old)
    connection.execute(f"{update_clause}? || substr({column}, ?){condition}", values)
