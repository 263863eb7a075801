"""runner-sync to another store carries grids: their runs with plan, description and verdict, and
the runs of their jobs below them."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.tracking.sink import MlflowSink

pytestmark = pytest.mark.slow  # grids are processes

Run = Callable[..., Any]
GRID = ("-m", "model=stub", "task.extractor=flexible", "task.limit=30", "seed=1,2", "print=none")
SYNC = "runner.tracking.sync"


@pytest.fixture
def other(tmp_path: Path, new_database: Callable[[Path], None]) -> str:
    """The uri of an empty store."""
    new_database(tmp_path / "other" / "mlflow.db")
    return f"sqlite:///{tmp_path}/other/mlflow.db"


def content(uri: str) -> dict[str, list[tuple[Any, ...]]]:
    """All that a database has of runs."""
    queries = {
        "runs": "select run_uuid, status, name from runs order by run_uuid",
        "tags": "select run_uuid, key, value from tags order by run_uuid, key",
        "params": "select run_uuid, key, value from params order by run_uuid, key",
        "metrics": "select run_uuid, key, value from metrics order by run_uuid, key",
    }
    with contextlib.closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as database:
        return {name: database.execute(query).fetchall() for name, query in queries.items()}


def described(uri: str) -> dict[str, Any]:
    """The one grid of a store, without what follows from the store."""
    found = content(uri)
    tags: dict[str, dict[str, str]] = {}
    for run, key, value in found["tags"]:
        tags.setdefault(run, {})[key] = value
    (grid,) = (run for run in tags if "grid" in tags[run])
    statuses = {run: status for run, status, _ in found["runs"]}
    below = {
        tags[run]["job_id"]: statuses[run] for run in tags if tags[run].get("mlflow.parentRunId") == grid
    }
    assert len(tags) == 1 + len(below), "each job has one run, below the grid"
    of_store = ("begun", "mlflow.user", "mlflow.artifactLocation", "runner.note")
    return {
        "status": statuses[grid],
        "tags": {key: value for key, value in tags[grid].items() if key not in of_store},
        "params": {key: value for run, key, value in found["params"] if run == grid},
        "metrics": {key: value for run, key, value in found["metrics"] if run == grid},
        "jobs": below,
    }


@pytest.mark.parametrize("has_records", [True, False], ids=["by its record", "by its database"])
def test_a_grid_is_the_same_in_another_store(
    runner: Run, tmp_path: Path, other: str, has_records: bool
) -> None:
    assert runner(*GRID).code == 0
    if not has_records:
        shutil.rmtree(tmp_path / "outputs" / "grids")
    own = f"sqlite:///{tmp_path}/outputs/mlflow.db"
    synced = runner("--tracking-uri", other, module=SYNC)
    assert (synced.code, synced.err) == (0, "")
    assert synced.out.startswith("2 results logged to ")
    assert synced.out.endswith(", in 1 grid\n")
    there = described(other)
    assert there == described(own)
    assert there["status"] == "FINISHED"
    assert set(there["jobs"].values()) == {"FINISHED"}
    assert {"verdict", "best", "mlflow.note.content", "overrides"} <= there["tags"].keys()
    assert there["params"] == {"jobs": "2", "seed": "1,2"}

    before = content(other)
    assert "already contains every completed job" in runner("--tracking-uri", other, module=SYNC).out
    assert content(other) == before


def test_a_grid_without_mlflow_and_a_sync_that_is_interrupted(
    runner: Run, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runner(*GRID, "tracking=none").code == 0
    log, done = MlflowSink.log_recorded_result, list[int]()

    def interrupted(*arguments: Any) -> bool:
        if done:
            raise KeyboardInterrupt
        done.append(1)
        return log(*arguments)

    with monkeypatch.context() as breaking:
        breaking.setattr(MlflowSink, "log_recorded_result", interrupted)
        assert runner("--tracking-uri", other, module=SYNC).code == 130
    assert len(content(other)["runs"]) == 2, "the grid and one job"
    again = runner("--tracking-uri", other, module=SYNC)
    assert again.code == 0, again.err
    there = described(other)
    assert (there["status"], len(there["jobs"])) == ("FINISHED", 2)
    assert {"verdict", "best"} <= there["tags"].keys()
    before = content(other)
    assert "already contains every completed job" in runner("--tracking-uri", other, module=SYNC).out
    assert content(other) == before


@pytest.mark.thorough
def test_jobs_that_an_earlier_version_has_synced_come_below_their_grid(
    runner: Run, tmp_path: Path, other: str
) -> None:
    assert runner(*GRID, "tracking=none").code == 0
    grids, away = tmp_path / "outputs" / "grids", tmp_path / "away"
    grids.rename(away)
    assert runner("--tracking-uri", other, module=SYNC).out.startswith("2 results logged to ")
    away.rename(grids)
    assert runner("--tracking-uri", other, module=SYNC).out.startswith("0 results logged to ")
    assert len(described(other)["jobs"]) == 2
