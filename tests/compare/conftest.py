"""One database for all tests of the comparison, and the command run on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stores import INT8, NF4, NONE, Store, marks

from runner import compare


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, new_database: Callable[[Path], None]) -> Store:
    """One database for all tests, filled by hand."""
    folder = tmp_path_factory.mktemp("compare")
    new_database(folder / "mlflow.db")
    return Store(folder)


@pytest.fixture(scope="session")
def grid(store: Store) -> Store:
    """Three quantizations × two splits: nf4 much worse on test, everything else nearly equal."""
    for split in ("test", "train"):
        for quantization, test_marks, train_marks in (
            (NONE, marks(180, 200), marks(190, 200)),
            (INT8, marks(181, 200, 3), marks(190, 200)),
            (NF4, marks(150, 200), marks(189, 200)),
        ):
            name = f"{quantization['quantization.name']}-{split}"
            solved = test_marks if split == "test" else train_marks
            store.job("grid", name, {**quantization, "task.split": split}, solved)
    store.job("grid", "dead", {**NF4, "seed": "7"}, marks(1, 200), status="FAILED")
    store.job("grid", "killed", {**NF4, "seed": "8"}, marks(1, 200), status="KILLED")
    return store


@pytest.fixture
def show(store: Store, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command on an experiment; returns exit code, stdout and stderr."""

    def run(experiment: str, *arguments: str) -> tuple[int, str, str]:
        output_dir = ["--output-dir", str(store.output_dir)]
        code = compare.main([*output_dir, "--experiment", experiment, *arguments])
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
