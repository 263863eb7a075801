"""evaluate() and grid(): the command line's jobs, ledger and store from a Python program."""

from __future__ import annotations

import asyncio
import logging
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from raising import raises

import runner as package
from runner_base.errors import Code, ConfigError, JobFailed
from runner_base.result import Status

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own


@pytest.fixture
def folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_database: Callable[[Path], None], warm_children: None
) -> Path:
    """An empty working directory with an empty database."""
    monkeypatch.chdir(tmp_path)
    new_database(tmp_path / "outputs" / "mlflow.db")
    return tmp_path


def runs(folder: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(folder / "outputs" / "mlflow.db")) as database:
        return database.execute("select name, status from runs order by name").fetchall()


@pytest.mark.thorough
def test_a_job_from_python_is_the_command_lines_job(folder: Path, runner: Callable[..., Any]) -> None:
    before = signal.getsignal(signal.SIGINT), logging.getLogger("runner").level
    record = package.evaluate("model=stub", ["task.limit=3", "seed=2"], {"task.system": "Be brief, please"})
    assert (record.status, record.from_ledger, record.result.metrics["n"]) == (Status.FINISHED, False, 3)
    assert runs(folder) == [("gsm8k stub test limit=3 system=Be brief, please seed=2", "FINISHED")]
    assert (folder / "outputs" / "jobs" / record.job_id / "log.txt").exists()
    by_command = runner("model=stub", "task.limit=3", "seed=2", "task.system=Be brief, please")
    assert f"{record.job_id}  (recorded earlier)" in by_command.out
    again = asyncio.run(asyncio.to_thread(package.evaluate, "model=stub", "task.limit=3", "seed=2", {"task.system": "Be brief, please"}))  # fmt: skip
    assert (again.job_id, again.from_ledger, again.mlflow_run_id) == (
        record.job_id,
        True,
        record.mlflow_run_id,
    )
    assert (signal.getsignal(signal.SIGINT), logging.getLogger("runner").level) == before


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("override", "code", "key"),
    [
        ("task.limt=3", "unknown_choice", "task.limt"),
        ("model=stbu", "unknown_choice", "model"),
        ("task.limit=0", "bad_value", "task.limit"),
        ("task.limit=1,2", "ambiguous", "task.limit"),
        ("plan=true", "unsupported", "plan"),
        ("what", "bad_value", "what"),
    ],
)
def test_a_mistake_is_the_command_lines_message(folder: Path, override: str, code: Code, key: str) -> None:
    with raises(ConfigError, code, key):
        package.evaluate("model=stub", "tracking=none", override)


@pytest.mark.thorough
def test_a_job_that_fails_raises_what_the_command_line_says(folder: Path) -> None:
    Path("long.txt").write_text("eggs " * 3000)
    with raises(JobFailed, "failed", "generate"):
        package.evaluate("task=generate", "task.prompts=long.txt", "tracking=none")


@pytest.mark.thorough
@pytest.mark.slow
def test_a_grid_is_rows_for_a_table(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    planned = package.grid("model=stub", "task.limit=3", {"seed": [1, 2]}, "plan=true")
    assert [(row["seed"], row["status"], row["error"]) for row in planned] == [
        (1, "to do", None),
        (2, "to do", None),
    ]
    first = package.evaluate("model=stub", "task.limit=3", "seed=1")
    with raises(ConfigError, "unknown_choice", "lora"):
        package.grid("model=stub", "lora=none,pht")
    rows = package.grid("model=stub", "task.limit=3", {"seed": [1, 2], "generation": ["greedy", "creative"]})
    assert [(row["seed"], row["generation"], row["status"]) for row in rows] == [
        (1, "greedy", "done before"),
        (1, "creative", "finished"),
        (2, "greedy", "finished"),
        (2, "creative", "finished"),
    ]
    assert rows[0]["job_id"] == first.job_id
    assert {row["n"] for row in rows} == {3}
    assert len(runs(folder)) == 5  # four jobs and the grid
    assert capfd.readouterr().out == ""
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(rows).set_index(["seed", "generation"])
    assert table.loc[(2, "creative"), "n"] == 3


def test_a_job_that_cannot_work_is_a_row_with_its_error(folder: Path) -> None:
    rows = package.grid(
        "tracking=none", "task.limit=2", {"model": ["stub", "local"]}, "model.name=nowhere", "plan=true"
    )
    assert [row["status"] for row in rows] == ["to do", "impossible"]
    assert rows[0]["error"] is None
    assert rows[1]["error"].startswith(f"model.name=nowhere: {folder / 'nowhere'} ")


def test_a_study_is_given_by_its_file(folder: Path) -> None:
    (folder / "studies").mkdir()
    (folder / "studies" / "own.yaml").write_text(
        "defaults: [config, override model: stub, override tracking: none, _self_]\n"
        "task: {limit: 2}\nhydra: {mode: MULTIRUN, sweeper: {params: {seed: '1,2'}}}\n"
    )
    assert [row["seed"] for row in package.grid("rerun=all", study="studies/own.yaml")] == [1, 2]


def test_the_package_grid_is_also_a_package() -> None:
    import runner.grid.plan as plan

    assert package.grid.plan is plan  # type: ignore[attr-defined]
