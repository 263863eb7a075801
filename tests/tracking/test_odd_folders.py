"""Output folders whose names have a meaning in a URI."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

Start = Callable[..., Any]


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["a?b", "a%20b", "a#b", "a b"])
def test_everything_is_in_the_named_folder(
    runner: Start, tmp_path: Path, new_database: Callable[[Path], None], name: str
) -> None:
    work = tmp_path / "work"
    new_database(work / name / "mlflow.db")
    for _ in range(2):
        done = runner("model=stub", "task.limit=2", f"output_dir='{name}'", cwd=work)
        assert done.code == 0, done.err
    assert [path.name for path in work.iterdir()] == [name], "and in no folder with a similar name"
    with closing(sqlite3.connect(work / name / "mlflow.db")) as database:
        assert database.execute("select status from runs").fetchall() == [("FINISHED",)]
    assert len(list((work / name / "mlartifacts").glob("*/artifacts/samples.jsonl"))) == 1
    compared = runner("--output-dir", name, cwd=work, module="runner_compare")
    assert "no such file" not in compared.err
