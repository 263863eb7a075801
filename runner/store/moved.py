"""An output folder that lies elsewhere than it was made: its MLflow database names places by their whole path."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path

PLACE = ".place"  # in the output folder: the paths under which it was used, a NUL between two, the latest last
LOCATIONS = (("experiments", "artifact_location"), ("runs", "artifact_uri"))


def mend(output_dir: Path) -> None:
    """Point a moved or copied folder's own database at where the folder lies now; nobody else may use it meanwhile.

    Earlier places stay noted: the database may be away when the folder is first used at its new place, and come back.
    """
    here, note = str(output_dir.resolve()), output_dir / PLACE
    with suppress(OSError, sqlite3.DatabaseError):  # a folder that is only read stays as it is
        there = note.read_text(encoding="utf-8") if note.is_file() else ""
        if there == here or (note.exists() and not note.is_file()):
            return
        *earlier, last = there.split("\0")
        for place in [*(place for place in earlier if not Path(place).exists()), last]:
            if place not in ("", here):
                _rewrite(output_dir / "mlflow.db", Path(place), Path(here))
        places = "\0".join(place for place in dict.fromkeys((*earlier, last)) if place not in ("", here))
        if (noted := f"{places}\0{here}" if places else here) != there:
            note.write_text(noted, encoding="utf-8")


def _rewrite(database: Path, there: Path, here: Path) -> None:
    with closing(sqlite3.connect(database, timeout=10)) as connection, connection:
        if not _names(connection, f"{there.as_uri()}/"):  # an update would wait for whoever writes, to change nothing
            return
        for table, column in LOCATIONS:
            _replace(connection, f"update {table} set {column} = ", column, f"{there.as_uri()}/", f"{here.as_uri()}/")
        tags = "update tags set value = "
        _replace(connection, tags, "value", f"{there}/", f"{here}/", " and key = 'output_dir'")


def _names(connection: sqlite3.Connection, place: str) -> bool:
    """Whether a database has experiments whose files lie in a place; one that MLflow has not made yet has none."""
    if not connection.execute("select 1 from sqlite_master where name = 'experiments'").fetchone():
        return False
    found = "select 1 from experiments where substr(artifact_location, 1, ?) = ?"
    return connection.execute(found, (len(place), place)).fetchone() is not None


def _replace(connection: sqlite3.Connection, update: str, column: str, old: str, new: str, only: str = "") -> None:
    """Replace the beginning of a column's values; LIKE would take the % of a path for a wildcard."""
    condition = f" where substr({column}, 1, ?) = ?{only}"
    values = (new, len(old) + 1, len(old), old)
    connection.execute(f"{update}? || substr({column}, ?){condition}", values)
