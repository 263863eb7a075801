"""An output folder that lies elsewhere than it was made: its MLflow database names places by their whole path."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path

PLACE = ".place"  # in the output folder: the path under which its database was last used
LOCATIONS = (("experiments", "artifact_location"), ("runs", "artifact_uri"))


def mend(output_dir: Path) -> None:
    """Point a moved or copied folder's own database at where the folder lies now; nobody else may use it meanwhile."""
    here, note = output_dir.resolve(), output_dir / PLACE
    with suppress(OSError, sqlite3.DatabaseError):  # a folder that is only read stays as it is
        there = note.read_text(encoding="utf-8") if note.exists() else ""
        if there == str(here):
            return
        if there:
            _rewrite(output_dir / "mlflow.db", Path(there), here)
        note.write_text(str(here), encoding="utf-8")


def _rewrite(database: Path, there: Path, here: Path) -> None:
    with closing(sqlite3.connect(database, timeout=10)) as connection, connection:
        for table, column in LOCATIONS:
            _replace(connection, f"update {table} set {column} = ", column, f"{there.as_uri()}/", f"{here.as_uri()}/")
        tags = "update tags set value = "
        _replace(connection, tags, "value", f"{there}/", f"{here}/", " and key = 'output_dir'")


def _replace(connection: sqlite3.Connection, update: str, column: str, old: str, new: str, only: str = "") -> None:
    """Replace the beginning of a column's values; LIKE would take the % of a path for a wildcard."""
    condition = f" where substr({column}, 1, ?) = ?{only}"
    values = (new, len(old) + 1, len(old), old)
    connection.execute(f"{update}? || substr({column}, ?){condition}", values)
