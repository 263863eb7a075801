"""A sqlite that always waits only half a second for a lock, for tests of locked stores."""

from __future__ import annotations

from pathlib import Path

# Python runs a module of this name at its start, so the product needs no hook for tests.
SITE = """
import functools
import sqlite3.dbapi2

wait = sqlite3.dbapi2.connect


@functools.wraps(wait)
def connect(*arguments, **keys):
    return wait(*arguments, **(keys | {"timeout": 0.5}))


sqlite3.connect = sqlite3.dbapi2.connect = connect
"""


def impatient(folder: Path) -> dict[str, str]:
    """Return the variables of a process with such a sqlite; its code is written into a new
    folder."""
    place = folder / "impatient"
    place.mkdir()
    (place / "sitecustomize.py").write_text(SITE)
    return {"PYTHONPATH": str(place)}
