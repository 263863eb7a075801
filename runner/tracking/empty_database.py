"""MLflow's empty database in sqlite, kept in the user's cache: to make one, MLflow goes through all its migrations."""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from contextlib import closing
from importlib import metadata
from pathlib import Path

from runner_base import short_hash
from runner_base.files import replace_with, user_cache
from runner_base.kept import note_use, remove_unused

log = logging.getLogger(__name__)

MAKERS = ("mlflow", "alembic", "sqlalchemy")  # whose versions decide what is in it


def begin(fresh: Path) -> bool:
    """Write the kept database to a new file, and return whether there was one."""
    for file in _kept():
        try:
            content = file.read_bytes()
        except OSError:  # another process has just replaced it
            continue
        if file.stem.endswith(_hash(content)):  # else it is damaged
            fresh.write_bytes(content)
            note_use(file)
            return True
    return False


def keep(fresh: Path) -> None:
    """Keep a database that MLflow has just made, without the experiment in it, which names a folder
    of its own."""
    if (cache := user_cache()) is None:
        return
    try:
        with closing(sqlite3.connect(":memory:")) as copy:
            with closing(sqlite3.connect(fresh)) as made:
                made.backup(copy)
            with copy:
                copy.execute("DELETE FROM experiments")
            copy.execute("VACUUM")
            content = copy.serialize()
        file = cache / f"{_name()}-{_hash(content)}.db"

        def write(other: Path) -> None:
            with other.open("xb") as stream:
                stream.write(content)

        replace_with(file, write)
        for damaged in set(_kept()) - {file}:
            damaged.unlink(missing_ok=True)
        remove_unused()
    except (OSError, sqlite3.Error) as error:
        log.info("MLflow's empty database cannot be kept: %s", error)


def _kept() -> list[Path]:
    cache = user_cache()
    return [] if cache is None else list(cache.glob(f"{_name()}-*.db"))


def _name() -> str:
    return f"mlflow-{short_hash([metadata.version(name) for name in MAKERS], 16)}"


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
