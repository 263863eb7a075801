"""--across-tools: evaluations of several tools on one task are paired by the texts of their
questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from other_logs import INSPECT, Members, changed_log

from runner_compare.statistics.stats import compute_exact_mcnemar_p_value

DATA = INSPECT.parent
NONE, EVALSCOPE, LIGHTEVAL = (INSPECT / "none", DATA / "evalscope" / "nf4", DATA / "lighteval" / "whole")
LM_EVAL = DATA / "lm_eval" / "problems"
VERDICTS = ("--across-tools", "--where", "task.metric!='digits'")


def paired_by_text(n: int, of: tuple[int, int]) -> str:
    """Return how a remark begins that counts the paired questions of the row and of the baseline."""
    return f"{n} questions are paired by text (this run has {of[0]}, the baseline has {of[1]}). "


def test_rows_of_three_tools_are_compared_on_the_questions_that_all_have(tables: Any, run: Any) -> None:
    (table,) = tables(NONE, EVALSCOPE, LIGHTEVAL, *VERDICTS)
    base, *rows = table["rows"]
    assert (base["is_baseline"], base["config"]["tool"]) == (True, "inspect_ai")
    assert {row["config"]["tool"] for row in rows} == {"evalscope", "lighteval"}
    assert [row["metrics"]["n"] for row in table["rows"]] == [24] * 4
    for row in rows:
        comparison = row["comparison"]
        own = row["metrics"]["accuracy"] - base["metrics"]["accuracy"]
        assert comparison["difference"] == pytest.approx(own)
        assert comparison["remark"].startswith(paired_by_text(24, of=(24, 24)))
        tool = row["config"]["tool"]
        assert f"the prompts (inspect_ai in the baseline, {tool} in this run)" in comparison["remark"]
        assert "the scorers (match in the baseline, " in comparison["remark"]
    code, out, _ = run(NONE, EVALSCOPE, "--where", "task.metric!='digits'")
    assert code == 0
    assert out.count("1 run") == 2, "without the option each has a table of its own"


def test_pairs_follow_the_texts_and_not_the_ids_or_the_order(tables: Any, tmp_path: Path) -> None:
    """In one log the first six questions are wrong and the ids are those of other questions."""

    def change(members: Members) -> None:
        logged = [content for name, content in members.items() if name.startswith("samples/")]
        ids = [one["id"] for one in logged]
        members["header.json"]["results"]["scores"] = []
        for at, one in enumerate(logged):
            one["id"] = ids[-1 - at]
            value = "I" if "problem-" in ids[at] and int(ids[at].removeprefix("problem-")) < 6 else "C"
            one["scores"] = {"match": {"value": value}}

    changed = changed_log(tmp_path / "changed.eval", change)
    (table,) = tables(LIGHTEVAL, changed, "--across-tools", "--where", "task.metric in ('em', 'match')")
    base, row = table["rows"]
    comparison = row["comparison"]
    assert base["metrics"]["correct"] == 22
    assert row["metrics"]["correct"] == 18
    assert 22 + comparison["wins"] - comparison["losses"] == 18
    assert comparison["losses"] <= 6, "by their ids, other questions would be lost"
    assert comparison["p"] == pytest.approx(
        compute_exact_mcnemar_p_value(comparison["wins"], comparison["losses"])
    )


def test_a_log_of_lm_eval_is_paired_with_those_of_other_tools(tables: Any) -> None:
    (table,) = tables(NONE, LM_EVAL, EVALSCOPE, *VERDICTS)
    assert {row["config"]["tool"] for row in table["rows"]} == {
        "inspect_ai",
        "lm-evaluation-harness",
        "evalscope",
    }
    (row,) = (row for row in table["rows"] if row["config"]["tool"] == "lm-evaluation-harness")
    assert (row["metrics"]["n"], row["metrics"]["correct"]) == (24, 22)
    comparison = row["comparison"]
    base = table["rows"][0]["metrics"]["correct"]
    assert base + comparison["wins"] - comparison["losses"] == 22
    assert comparison["p"] == pytest.approx(
        compute_exact_mcnemar_p_value(comparison["wins"], comparison["losses"])
    )
    assert paired_by_text(24, of=(24, 24)) in comparison["remark"]
    scorers = "(match in the baseline, exact_match flexible-extract in this run)"
    assert f"the scorers {scorers}" in comparison["remark"]


def test_what_cannot_be_paired_is_said(run: Any, rejected: Any) -> None:
    evalplus = DATA / "evalplus" / "none_eval_results.json"
    err = rejected(NONE, evalplus, *VERDICTS)
    assert f"{evalplus}:HumanEval:base (EvalPlus) contains question ids but no question texts" in err
    err = rejected(LIGHTEVAL, NONE, *VERDICTS)
    assert f"the baseline {LIGHTEVAL} contains 2 evaluations" in err
    assert 'Select one with --where "' in err
    assert "--across-tools: only one evaluation was found" in rejected(NONE, *VERDICTS)
    assert "leave out --by" in rejected(NONE, EVALSCOPE, *VERDICTS, "--by", "model")
