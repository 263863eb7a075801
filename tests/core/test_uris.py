from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import make_url

from runner_base.uris import format_sqlite_uri, parse_sqlite_path


@pytest.mark.parametrize("folder", ["plain", "a b", "a?b", "a%20b", "a#b", "100%", "%3F", "数据"])
def test_a_uri_names_the_file_that_it_was_made_of(folder: str) -> None:
    path = Path("/data", folder, "mlflow.db")
    assert make_url(format_sqlite_uri(path)).database == str(path), "as SQLAlchemy reads it"
    assert parse_sqlite_path(format_sqlite_uri(path)) == path


def test_plain_paths_look_as_everybody_writes_them() -> None:
    assert format_sqlite_uri(Path("/data/a b/mlflow.db")) == "sqlite:////data/a b/mlflow.db"
    assert parse_sqlite_path("sqlite:///a%20b.db?timeout=5") == Path("a b.db")
    assert parse_sqlite_path("postgresql://host/db") is None
