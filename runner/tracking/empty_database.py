"""Caches an empty MLflow database, because MLflow takes seconds to create the tables of a new database."""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from contextlib import closing
from importlib import metadata
from pathlib import Path

from runner_base import compute_short_json_hash
from runner_base.files import get_user_cache_folder, replace_atomically
from runner_base.user_cache import mark_file_used, remove_unused_cache_files

log = logging.getLogger(__name__)

MAKERS = ("mlflow", "alembic", "sqlalchemy")  # whose versions decide what is in it


def copy_cached_empty_database(new_file: Path) -> bool:
    """Copy the cached empty database to a new file. Returns False if no database is cached."""
    for file in _cached_files():
        try:
            content = file.read_bytes()
        except OSError:  # another process has just replaced it
            continue
        if file.stem.endswith(_short_sha256(content)):  # else it is damaged
            new_file.write_bytes(content)
            mark_file_used(file)
            return True
    return False


def cache_new_database(new_file: Path) -> None:
    """Cache a database that MLflow has just created, without its default experiment."""
    if (cache := get_user_cache_folder()) is None:
        return
    try:
        with closing(sqlite3.connect(":memory:")) as copy:
            with closing(sqlite3.connect(new_file)) as made:
                made.backup(copy)
            with copy:
                copy.execute("DELETE FROM experiments")
            copy.execute("VACUUM")
            content = copy.serialize()
        file = cache / f"{_cache_file_prefix()}-{_short_sha256(content)}.db"

        def write_content(cache_file: Path) -> None:
            with cache_file.open("xb") as stream:
                stream.write(content)

        replace_atomically(file, write_content)
        for damaged in set(_cached_files()) - {file}:
            damaged.unlink(missing_ok=True)
        remove_unused_cache_files()
    except (OSError, sqlite3.Error) as error:
        log.info("cannot store MLflow's empty database for reuse: %s", error)


def _cached_files() -> list[Path]:
    cache = get_user_cache_folder()
    return [] if cache is None else list(cache.glob(f"{_cache_file_prefix()}-*.db"))


def _cache_file_prefix() -> str:
    return f"mlflow-{compute_short_json_hash([metadata.version(name) for name in MAKERS], 16)}"


def _short_sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
