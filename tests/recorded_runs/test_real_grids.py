"""Real grids of the stub model, run by the runner and compared from their logs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner import compare
from runner_compare.render.margins import UNDECIDED

pytestmark = [
    pytest.mark.slow,  # grids are processes
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]

NAMES = {f"comparison.{kind}" for kind in ("html", "md", "csv", "json")}
# metrics of jobs with answers that were cut off
OF_CUT_OFF = ("accuracy_cut_off_", "accuracy_uncut_", "finished_share")


def compared(capsys: pytest.CaptureFixture[str], tmp_path: Path, *arguments: str) -> dict[str, Any]:
    """The first table of the comparison as data."""
    code = compare.main(["--output-dir", str(tmp_path / "outputs"), "--format", "json", *arguments])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    table: dict[str, Any] = json.loads(captured.out)["tables"][0]
    return table


@pytest.mark.thorough
def test_a_grid_is_one_run_with_its_jobs_and_their_comparison(
    runner: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    # With 2 words the stub's answer is cut off; with 256 it holds the head of the question, whose
    # numbers may be right.
    shared = ["-m", "model=stub", "task.extractor=flexible", "task.limit=60", "print=none"]
    done = runner(*shared, "generation.max_new_tokens=256,2")
    assert done.code == 0, done.err
    baseline = ["--baseline", "generation.max_new_tokens=256"]
    table = compared(capsys, tmp_path, "--grid", "last", *baseline, "--log")
    (row,) = (row for row in table["rows"] if not row["is_baseline"])
    comparison = row["comparison"]
    assert (comparison["wins"], row["metrics"]["cut_off"]) == (0, 60)
    assert comparison["wins"] + comparison["losses"] + comparison["ties"] == 60

    client = MlflowClient(f"sqlite:///{tmp_path}/outputs/mlflow.db")
    experiment = client.get_experiment_by_name("runner")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = (run for run in runs if "grid" in run.data.tags)
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert {run.data.tags["job_id"] for run in children} == {row["job_id"] for row in table["rows"]}
    named = [{name for name in run.data.metrics if not name.startswith(OF_CUT_OFF)} for run in children]
    assert named[0] == named[1]  # MLflow's own view has every metric of both
    logged = {Path(item.path).name for item in client.list_artifacts(parent.info.run_id, "comparison")}
    assert logged >= NAMES
    for child in children:
        assert "samples.jsonl" in {item.path for item in client.list_artifacts(child.info.run_id)}

    # one of the two jobs is already done
    done = runner(*shared, "generation.max_new_tokens=256,16")
    assert done.code == 0, done.err
    table = compared(capsys, tmp_path, "--grid", "last", *baseline)
    assert {row["config"]["generation.max_new_tokens"] for row in table["rows"]} == {"256", "16"}


@pytest.mark.thorough
def test_sweeps_and_memory_are_compared_by_their_repeats(
    runner: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = ["-m", "model=stub", "seed=0,1", "print=none"]
    sweep = [
        "task=sweep",
        "task.batch_sizes=[1,2]",
        "task.prompt_tokens=[16]",
        "task.new_tokens=8",
        "task.repeats=4",
    ]
    done = runner(*shared, *sweep)
    assert done.code == 0, done.err
    done = runner(*shared, "task=memory", "task.batch_size=1", "task.prompt_tokens=16", "task.repeats=2")
    assert done.code == 0, done.err
    for task, measure, repeats in (
        ("sweep", "decode_tok_per_s/batch_2_prompt_16", 4),
        ("memory", "peak_rss_mib", 2),
    ):
        table = compared(capsys, tmp_path, "--task", task, "--baseline", "seed=0")
        (row,) = (row for row in table["rows"] if not row["is_baseline"])
        assert row["note"] is None
        ratio_by_measure = {ratio["measure"]: ratio for ratio in row["ratios"]}
        ratio = ratio_by_measure[measure]
        assert ratio["repeats"] == ratio["baseline_repeats"] == repeats
        assert 0 < ratio["ratio_low"] <= ratio["ratio"] <= ratio["ratio_high"]
        assert ratio["runs"] == {"sweep": 1, "memory": repeats}[task], (
            "a repeat of memory is a process of its own"
        )
        assert (ratio["method"], ratio["p"], ratio["p_holm"]) == ("too_few_runs", None, None)
        ours = row["metrics"][measure]
        theirs = next(row["metrics"][measure] for row in table["rows"] if row["is_baseline"])
        # the medians that the jobs themselves reported
        assert ratio["ratio"] == pytest.approx(ours / theirs)


def test_a_table_of_answers_that_were_cut_off_names_the_limit_and_plans_no_questions(
    runner: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = runner("-m", "model=stub", "task.limit=20", "generation.max_new_tokens=2,3")
    assert done.code == 0, done.err
    for limit in (2, 3):
        words = f"{limit}: 20 of 20 cut off at {limit} tokens: raise generation.max_new_tokens"
        assert f"note: {words}" in done.out
    baseline = ["--output-dir", str(tmp_path / "outputs"), "--baseline", "generation.max_new_tokens=3"]
    capsys.readouterr()
    assert compare.main(baseline) == 0
    out = capsys.readouterr().out
    assert f"is {UNDECIDED}: most answers are cut off; raise generation.max_new_tokens." in " ".join(
        out.split()
    )
    assert (
        "• generation.max_new_tokens=2: 20 of 20 cut off at 2 tokens: raise generation.max_new_tokens" in out
    )
    assert "would do" not in out
    assert compare.main([*baseline, "--margin", "2", "--plan-questions", "margin=2"]) == 0
    out = capsys.readouterr().out
    assert "would decide if" not in out
    assert "most answers are cut off" in out


@pytest.mark.thorough
def test_the_last_grid_is_the_one_that_was_started_last_though_its_run_is_older(
    runner: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def jobs_of_the_last(limit: int, *more: str) -> set[str]:
        """Start a grid and return the jobs of `--grid last`."""
        grid = ("model=stub", f"task.limit={limit}", "generation.max_new_tokens=2,3")
        done = runner("-m", *grid, "print=none", *more)
        assert done.code == 0, done.err
        return {row["job_id"] for row in compared(capsys, tmp_path, "--grid", "last")["rows"]}

    first, second = jobs_of_the_last(3), jobs_of_the_last(4)
    assert len(first) == len(second) == 2
    assert not first & second
    assert jobs_of_the_last(3) == second, "nothing was left to do, so it was not started"
    again = jobs_of_the_last(3, "rerun=all")
    assert again == first, "it goes on in its own run, which is the older one"
