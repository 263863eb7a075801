"""The lines of a grid: how far its jobs are, how each ended, and what comes next."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from runner.grid.grid_output import _format_baseline_option
from runner.render import grid_lines
from runner.render.grid_lines import JobCells, build_job_cells
from runner.report import is_stderr_same_file_as_stdout
from runner_base import ProgressState

SCORED = {
    "accuracy": 0.946,
    "accuracy_low": 0.784,
    "accuracy_high": 0.975,
    "n": 500.0,
    "decode_tok_per_s": 7229.4,
    "draft_tokens": 9.0,
    "peak_rss_mib": 550.0,
    "families": 18.0,
    "seconds": 7.04,
}


def test_a_line_has_score_speed_and_time() -> None:
    cells = build_job_cells(SCORED)
    assert cells.filled() == ["accuracy 94.6 % [78.4, 97.5]", "7,229 tok/s", "7.0 s"]
    line = grid_lines.format_ended_job_line("[3/8]", "quantization=int8 task.split=test", 34, cells, "")
    assert (
        line
        == "[3/8] quantization=int8 task.split=test    accuracy 94.6 % [78.4, 97.5]   7,229 tok/s    7.0 s"
    )
    assert len(line) <= 100


def test_the_cells_of_a_grid_stand_below_each_other() -> None:
    lines = [
        grid_lines.format_ended_job_line("[1/2]", label, 20, build_job_cells(SCORED | changes), recorded)
        for label, changes, recorded in (
            ("quantization=none", {}, ""),
            ("quantization=int8", {"decode_tok_per_s": 912.0, "seconds": 75.0}, "recorded before"),
        )
    ]
    assert lines[0].index("tok/s") == lines[1].index("tok/s")
    assert lines[1].endswith("1:15   (recorded before)")


@pytest.mark.parametrize(
    ("metrics", "score"),
    [
        ({"acc": 0.5, "acc_low": 0.4, "acc_high": 0.6}, "accuracy 50.0 % [40.0, 60.0]"),
        ({"accuracy": 1.0}, "accuracy 100.0 %"),
        ({"log_likelihood_nats_per_token": -0.5}, "log-likelihood −0.50000 nats/token"),
        ({"best_decode_tok_per_s": 1234.0}, "at most 1,234 tok/s"),
        ({"peak_over_baseline_mib": 35.2}, "peak 35 MiB"),
        ({"n": 3.0, "stopped": 2.0, "cut_off": 1.0, "errors": 0.0}, "3 answers, 1 cut off"),
        ({}, "layers 4"),
    ],
)
def test_a_task_has_the_score_that_it_measures(metrics: dict[str, float], score: str) -> None:
    assert build_job_cells(metrics, ["layers 4"]).score == score


def test_what_only_some_jobs_have_comes_last() -> None:
    early = {
        "early_stop_difference_points": -3.0,
        "early_stop_difference_points_low": -5.0,
        "early_stop_difference_points_high": -1.0,
        "questions_left": 40.0,
        "cost_usd": 0.5,
    }
    (stop, cost) = build_job_cells(SCORED | early).rest
    assert stop.startswith("stopped early: −3")
    assert cost.endswith("USD")


def test_progress_is_one_line_for_one_job() -> None:
    step = ProgressState(
        "gsm8k",
        275,
        500,
        {"accuracy": "91.3%", "decode": "7 tok/s", "batch size": "124"},
        left_s=2.0,
        unit="questions",
    )
    cells = grid_lines.format_job_progress(step)
    assert cells == "275/500 questions, 91.3 % correct, 2.0 s left"
    head = grid_lines.format_job_counts(2, 8, 1)
    assert (
        grid_lines.format_grid_progress(head, [("seed=1", cells)], 4)
        == f"2 of 8 done, 1 failed · seed=1: {cells}"
    )
    several = grid_lines.format_grid_progress(
        head, [(f"seed={n}", "starting") for n in range(6)], 4
    ).splitlines()
    assert (len(several), several[-1].strip()) == (6, "and 2 more")
    assert grid_lines.format_job_progress(ProgressState("loading", 0, 40)) == "loading 0/40"
    assert grid_lines.format_job_progress(None) == "starting"


def test_the_end_counts_jobs_by_their_status() -> None:
    line = grid_lines.format_grid_summary_line(
        ["finished", "done before", "finished", "failed"], 87.0, "outputs/jobs"
    )
    assert line == "4 jobs: 2 finished, 1 done before, 1 failed · 1:27 in all · results in outputs/jobs"
    assert JobCells("").filled() == []


def test_the_next_command_names_the_plain_choices_as_baseline() -> None:
    names = [{"quantization": kind, "task.split": split} for kind in ("none", "nf4") for split in ("a", "b")]
    assert _format_baseline_option(names) == ["--baseline", "quantization=none"]
    both = [{"quantization": "none", "lora": "none"}, {"quantization": "nf4", "lora": "peft"}]
    assert _format_baseline_option(both) == ["--baseline", "quantization=none,lora=none"]
    assert (
        _format_baseline_option(
            [{"quantization": "none", "lora": "a"}, {"quantization": "b", "lora": "none"}]
        )
        == []
    )
    assert _format_baseline_option([{"seed": "1"}, {"seed": "2"}]) == []


def test_a_table_is_left_out_only_where_the_lines_are_in_the_same_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        (tmp_path / "both").open("w") as both,
        (tmp_path / "other").open("w") as other,
        os.fdopen(os.dup(both.fileno()), "w") as same,
    ):
        for err, is_same in ((same, True), (other, False)):
            monkeypatch.setattr(sys, "stdout", both)
            monkeypatch.setattr(sys, "stderr", err)
            found = is_stderr_same_file_as_stdout()
            monkeypatch.undo()
            assert found is is_same
