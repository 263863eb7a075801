"""Runs that were compared while they ran: their verdicts stand in a table, by the bets that they
were made by."""

from __future__ import annotations

from typing import Any

import pytest
from question_families import in_families, with_samples
from stores import INT8, NF4, NONE, Store, marks

from runner_compare.statistics.sequential import compute_sequential_p_value

pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")]

BASELINE = "quantization=none"


@pytest.mark.thorough
def test_a_run_that_stopped_early_is_compared_by_bets_on_what_both_have(
    store: Store, rows: Any, show: Any
) -> None:
    base = store.job("early", "base", NONE, marks(90, 100))
    stops = {"questions_asked": 40.0, "questions_left": 60.0}
    nf4 = store.job("early", "nf4", NF4, [index % 4 > 0 for index in range(40)], metrics=stops)
    # they arrived before the decision
    later = (base / "samples.jsonl").read_text().splitlines(keepends=True)[40:45]
    with (nf4 / "samples.jsonl").open("a") as file:
        file.writelines(later)
    comparison = rows("early", "--baseline", BASELINE)["nf4"]["comparison"]
    assert (comparison["method"], comparison["wins"], comparison["losses"], comparison["ties"]) == (
        "sequential",
        0,
        10,
        30,
    )
    assert comparison["difference"] == -10 / 40
    assert comparison["difference_low"] < -10 / 40 < comparison["difference_high"] < 0
    assert comparison["p"] == compute_sequential_p_value(0, 10)
    assert comparison["finding"] == "worse"
    assert comparison["remark"] == "nf4 stopped early: paired on the 40 questions that both runs answered"
    _, out, _ = show("early", "--baseline", BASELINE)
    assert "nf4 vs none (n=40): worse (Δ −25.0 points, anytime-valid 95 % interval" in out
    assert (
        "For runs with early stopping, p and interval come from an e-process and are valid at any time. Holm is the"
        in out
    )
    _, out, _ = show("early", "--flips", "base", "nf4")
    assert "10 lost, 0 won, 30 solved by both, 0 solved by neither" in out
    store.job("early", "few", INT8, marks(4, 7), metrics={"questions_asked": 7.0, "questions_left": 93.0})
    comparison = rows("early", "--baseline", BASELINE)["few"]["comparison"]
    assert (comparison["finding"], comparison["detectable_difference"]) == ("no difference shown", None)
    assert "Undecided after 7 questions" in show("early", "--baseline", BASELINE)[1]


@pytest.mark.parametrize("in_clusters", [False, True])
def test_bets_count_questions_whether_or_not_the_baseline_has_clusters(
    store: Store, rows: Any, in_clusters: bool
) -> None:
    name = f"clusters {in_clusters}"
    if in_clusters:  # as jobs on the embedded problems have by default
        in_families(store, name, "base", NONE, marks(90, 100), 10)
    else:
        store.job(name, "base", NONE, marks(90, 100))
    losing = [index >= 10 for index in range(30)]
    store.job(name, "stopped", NF4, losing, **compared_while_running("base", 1, 30))
    row = rows(name, "--baseline", BASELINE)["stopped"]
    comparison = row["comparison"]
    assert (comparison["method"], comparison["p"]) == ("sequential", compute_sequential_p_value(0, 10))
    assert (comparison["clusters"], comparison["finding"]) == (None, "worse")
    assert (comparison["wins"], comparison["losses"], comparison["ties"]) == (0, 10, 20)


def compared_while_running(
    baseline: str, comparisons: int = 0, stopped_after: int = 0, of: int = 100
) -> dict[str, Any]:
    """What a job records that was compared with a baseline; 0 comparisons: as earlier versions
    recorded it."""
    asked = {
        "questions_asked": stopped_after or of,
        "questions_left": of - stopped_after if stopped_after else 0,
    }
    shared = {"early_stop_comparisons": comparisons} if comparisons else {}
    facts = {"fact.early_stop_vs": f"quantization=none · {baseline}"}
    return {"metrics": {key: float(value) for key, value in (asked | shared).items()}, "tags": facts}


def test_the_verdict_of_a_job_stands_whatever_else_the_table_has(store: Store, rows: Any, show: Any) -> None:
    store.job("shares", "base", NONE, marks(90, 100))
    losing = [index >= 10 for index in range(30)]  # ten losses: p 0.013
    store.job("shares", "stopped", NF4, losing, **compared_while_running("base", 3, 30))
    store.job("shares", "ran-on", INT8, marks(84, 100), **compared_while_running("base", 3))
    row_by_job = rows("shares", "--baseline", BASELINE, "--margin", "2")
    stopped, ran_on = (row_by_job[name]["comparison"] for name in ("stopped", "ran-on"))
    assert (stopped["finding"], stopped["p"], stopped["p_holm"]) == (
        "worse",
        compute_sequential_p_value(0, 10),
        3 * compute_sequential_p_value(0, 10),
    )
    assert (stopped["verdict"], stopped["early_stop_comparisons"]) == ("worse by more", 3)
    # six losses and no win: McNemar would say p 0.03, but the bets have been looked at 100 times
    assert (ran_on["method"], ran_on["finding"], ran_on["p"]) == (
        "sequential",
        "no difference shown",
        compute_sequential_p_value(0, 6),
    )
    assert ran_on["remark"] == "ran-on used early stopping"
    _, out, _ = show("shares", "--baseline", BASELINE)
    assert "anytime-valid 98.3 % interval" in out
    assert "p=0.013, times 3 comparisons 0.039" in out
    assert "no other run changes the verdict." in out
    assert "Holm is the p-value after" not in out
    assert "have a wrong finding" not in out
    for number in range(4):
        store.job("shares", f"plain-{number}", {**NF4, "seed": str(number)}, marks(90, 100))
    many = rows("shares", "--baseline", "job_id=base")
    assert many["stopped"]["comparison"] == {**stopped, "margin": None, "verdict": None}
    assert many["plain-0"]["comparison"]["method"] == "mcnemar"
    _, out, _ = show("shares", "--baseline", "job_id=base")
    assert (
        "Up to 8.3 % of tables like this have a wrong finding: 2 runs decided at 1.7 % (5 % shared by 3 jobs) each while "
        "running, and the other comparisons share 5 %"
    ) in out
    assert "correction for the 4 other comparisons of this table" in out
    # the same pair, seen from the other side
    reverse = rows("shares", "--baseline", "job_id=stopped")["base"]["comparison"]
    assert (reverse["finding"], reverse["p_holm"]) == ("better", stopped["p_holm"])


def test_bets_without_a_share_are_adjusted_with_the_table(store: Store, rows: Any, show: Any) -> None:
    """Jobs of earlier versions, and pairs with another run than the one that a job was compared
    with."""
    store.job("old", "base", NONE, marks(90, 100))
    losing = [index >= 8 for index in range(30)]  # eight losses: p 0.04
    for seed in "12":
        store.job(
            "old", f"old-{seed}", {**NF4, "seed": seed}, losing, **compared_while_running("base", 0, 30)
        )
    row_by_job = rows("old", "--baseline", "job_id=base")
    comparisons = [row_by_job[f"old-{seed}"]["comparison"] for seed in "12"]
    assert [(it["method"], it["early_stop_comparisons"], it["p_holm"]) for it in comparisons] == [
        ("sequential", None, pytest.approx(2 * compute_sequential_p_value(0, 8)))
    ] * 2
    store.job("elsewhere", "base", NONE, marks(90, 100))
    store.job("elsewhere", "nf4", NF4, marks(80, 100), **compared_while_running("another", 1))
    comparison = rows("elsewhere", "--baseline", BASELINE)["nf4"]["comparison"]
    assert (comparison["method"], comparison["early_stop_comparisons"]) == ("sequential", None)
    store.job("twice", "base", NONE, marks(90, 100))
    for name, keys in (("nf4", NF4), ("int8", INT8)):
        store.job("twice", name, keys, losing, **compared_while_running("base", 1, 30))
    _, out, _ = show("twice", "--baseline", BASELINE)
    assert out.count(": worse (") == 2
    assert (
        "Up to 10 % of tables like this have a wrong finding: 2 runs decided at 5 % each while running."
        in out
    )
    assert "with task.early_stop_comparisons=2" in out


def test_errors_that_the_table_counts_and_the_job_does_not_are_said(store: Store, show: Any) -> None:
    store.job("erring", "base", NONE, marks(90, 100))
    asked = compared_while_running("base", 1)
    asked["metrics"] |= {"errors": 2.0}
    store.job("erring", "nf4", NF4, marks(88, 100), status="FAILED", **asked)
    _, out, _ = show("erring", "--baseline", BASELINE, "--count-errors")
    assert "nf4 used early stopping. Questions with errors count as not solved in this comparison" in out


def test_a_difference_of_votes_that_decided_while_a_job_ran_says_so(store: Store, rows: Any) -> None:
    with_samples(store, "early votes", "base", NONE, [8] * 60)
    stops = {"questions_asked": 60.0, "questions_left": 40.0}
    with_samples(
        store, "early votes", "nf4", NF4, [6 if index % 4 else 2 for index in range(60)], metrics=stops
    )
    row = rows("early votes", "--baseline", BASELINE)["nf4"]
    assert row["metrics"]["accuracy"] == (45 * 6 + 15 * 2) / 480, "the mean over all answers"
    comparison = row["comparison"]
    assert (comparison["method"], comparison["difference"]) == ("sequential", -0.25), "15 votes are lost"
    assert "the difference is between majority votes of 8 answers" in comparison["remark"]
