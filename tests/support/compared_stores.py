"""Fixtures of the comparison's tests, which a conftest.py imports: a database, and the command run
on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from full_table import with_everything
from stores import Store

from runner import compare


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, new_database: Callable[[Path], None]) -> Store:
    """One database for all tests, filled by hand."""
    folder = tmp_path_factory.mktemp("compare")
    new_database(folder / "mlflow.db")
    return Store(folder)


@pytest.fixture
def show(store: Store, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command on an experiment with all that it can show, unless the arguments say how; returns exit
    code, stdout and stderr."""

    def run(experiment: str, *arguments: str) -> tuple[int, str, str]:
        output_dir = ["--output-dir", str(store.output_dir)]
        code = compare.main([*output_dir, "--experiment", experiment, *with_everything(arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def rows(show: Any) -> Any:
    """Run the command for JSON; returns the first table's rows by job."""

    def run(experiment: str, *arguments: str) -> dict[str, dict[str, Any]]:
        code, out, err = show(experiment, "--format", "json", *arguments)
        assert (code, err) == (0, "")
        return {row["job_id"]: row for row in json.loads(out)["tables"][0]["rows"]}

    return run
