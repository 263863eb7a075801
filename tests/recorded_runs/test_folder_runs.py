"""A folder's records in place of its runs in MLflow: the comparison is the same, and MLflow is
asked for the rest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner import compare
from runner.recorded_runs import run_list
from runner.tracking import published_index, stored_runs
from runner.tracking.connection import open_client

pytestmark = [
    pytest.mark.slow,  # grids are processes
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]
GRID = ("-m", "model=stub", "task.limit=4", "print=none", "seed=1,2", "generation.max_new_tokens=256,2")


@pytest.fixture
def outputs(runner: Callable[..., Any], tmp_path: Path) -> Path:
    """A folder with a grid, one of whose jobs was done before it, and another one was done
    again."""
    short = (*GRID[1:4], "generation.max_new_tokens=2")
    for arguments in ((*short, "seed=2"), GRID, (*short, "seed=1", "rerun=all")):
        done = runner(*arguments)
        assert done.code == 0, done.err
    return tmp_path / "outputs"


@pytest.fixture
def compared(capsys: pytest.CaptureFixture[str], outputs: Path) -> Callable[..., dict[str, dict[str, Any]]]:
    """Return a function that compares the folder's jobs, and returns the rows by job."""

    def run(*arguments: str) -> dict[str, dict[str, Any]]:
        capsys.readouterr()
        assert compare.main(["--output-dir", str(outputs), "--format", "json", "--all", *arguments]) == 0
        return {row["job_id"]: row for row in json.loads(capsys.readouterr().out)["tables"][0]["rows"]}

    return run


Compared = Callable[..., dict[str, dict[str, Any]]]


@pytest.mark.thorough
def test_records_say_what_mlflow_says(
    outputs: Path, compared: Compared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the runs' ids and in their order: by the index, also in parts of it, and without it, as
    it was before."""
    choices: list[tuple[str, ...]] = [(), ("--grid", "last"), ("--grid", "last", "--baseline", "seed=1")]
    read: list[str] = []
    search = stored_runs.search_runs

    def counting(*arguments: Any, **named: Any) -> Any:
        found = [*search(*arguments, **named)]
        read.extend(it.info.run_id for it in found if "job_id" in it.data.tags)
        return found

    for module in (run_list, stored_runs):
        monkeypatch.setattr(module, "search_runs", counting)
    by_records = [[*compared(*choice).items()] for choice in choices]
    assert len({*read}) == 1, "MLflow was asked, and had nothing but the run of before"
    with monkeypatch.context() as with_many:
        with_many.setattr(stored_runs, "IDS_A_QUERY", 0.1)
        assert [[*compared(*choice).items()] for choice in choices] == by_records
    (outputs / published_index.FILE).unlink()
    assert [[*compared(*choice).items()] for choice in choices] == by_records
    assert len({*read}) == 5, "the control"


@pytest.mark.thorough
def test_what_only_one_of_both_has_is_compared_unless_it_was_deleted(
    runner: Callable[..., Any], outputs: Path, compared: Compared
) -> None:
    before = compared()
    of_seed_1 = {job for job, row in before.items() if row["config"]["seed"] == "1"}
    gone, deleted = sorted(of_seed_1, key=lambda job: int(before[job]["config"]["generation.max_new_tokens"]))
    damaged, _ = before.keys() - of_seed_1
    shutil.rmtree(outputs / "jobs" / gone)
    (outputs / "jobs" / damaged / "result.json").write_text('{"result": 1}')
    client: Any = open_client(f"sqlite:///{outputs}/mlflow.db", "uri")
    client.delete_run(before[deleted]["run_id"])
    assert runner(*GRID[1:4], "seed=3", "tracking=none").code == 0
    assert runner(*GRID[1:4], "seed=4", "tracking.experiment=other").code == 0
    after = compared()
    (unpublished,) = after.keys() - before.keys()
    assert after[unpublished]["run_id"] == unpublished
    assert before.keys() - after.keys() == {deleted}
    assert [after[job]["metrics"] for job in (gone, damaged)] == [
        before[job]["metrics"] for job in (gone, damaged)
    ]
    (other,) = compared("--experiment", "other")
    assert other not in before.keys() | after.keys()


@pytest.mark.thorough
def test_jobs_without_a_database(
    outputs: Path, compared: Compared, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same comparison as with MLflow, without its ids."""
    by_mlflow = compared("--baseline", "seed=1")
    (outputs / "mlflow.db").unlink()
    damaged = outputs / "jobs" / "gsm8k-damaged"
    damaged.mkdir()
    (damaged / "result.json").write_text('{"result": 1}')
    by_records = compared("--baseline", "seed=1")
    assert {job: row | {"run_id": job} for job, row in by_mlflow.items()} == by_records
    options = ["--output-dir", str(outputs)]
    assert compare.main(options) == 0
    assert "gsm8k-damaged/result.json is damaged (" in capsys.readouterr().err
    assert compare.main([*options, "--grid", "last"]) == 0, "by the grid's record"
    assert compare.main([*options, "--grid", "last", "--log"]) == 2
    assert f"--log: {outputs} has only job records. --log needs an MLflow database" in capsys.readouterr().err
    shutil.rmtree(outputs / "grids")
    assert compare.main([*options, "--grid", "last"]) == 2
    assert f"--grid last: {outputs} contains no record of a grid" in capsys.readouterr().err
