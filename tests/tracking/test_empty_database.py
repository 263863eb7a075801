"""MLflow's empty database, made by MLflow and then kept."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from runner.tracking import empty_database


def tables(file: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(file)) as connection:
        return sorted(connection.execute("SELECT name, sql FROM sqlite_master").fetchall())


def test_what_is_kept_is_what_mlflow_makes_without_its_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_database: Callable[[Path], None]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made, fresh = tmp_path / "made.db", tmp_path / "fresh.db"
    new_database(made)
    assert not empty_database.copy_cached_empty_database(fresh)
    empty_database.cache_new_database(made)
    assert empty_database.copy_cached_empty_database(fresh)
    assert tables(fresh) == tables(made)
    with closing(sqlite3.connect(fresh)) as connection:
        assert connection.execute("SELECT * FROM experiments").fetchall() == []
        assert connection.execute("SELECT count(*) FROM alembic_version").fetchall() == [(1,)]


@pytest.mark.parametrize("damage", [b"", b"SQLite format 3\0", None])
def test_a_damaged_one_is_ignored_and_replaced(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    new_database: Callable[[Path], None],
    damage: bytes | None,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = tmp_path / "made.db"
    new_database(made)
    empty_database.cache_new_database(made)
    [kept] = (tmp_path / "cache" / "runner").glob("mlflow-*.db")
    content = kept.read_bytes()
    kept.write_bytes(content[:5000] + b"x" + content[5001:] if damage is None else damage)
    assert not empty_database.copy_cached_empty_database(tmp_path / "fresh.db")
    empty_database.cache_new_database(made)
    assert empty_database.copy_cached_empty_database(tmp_path / "fresh.db")


def test_another_version_makes_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_database: Callable[[Path], None]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    new_database(tmp_path / "made.db")
    empty_database.cache_new_database(tmp_path / "made.db")
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"of {name}")
    assert not empty_database.copy_cached_empty_database(tmp_path / "fresh.db")
