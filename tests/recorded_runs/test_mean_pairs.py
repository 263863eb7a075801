"""Families of questions count as one, several answers to a question by their mean; the sentence
says so."""

from __future__ import annotations

from dataclasses import replace
from math import comb
from random import Random
from typing import Any

import pytest
from question_families import NUMBER_OF_ANSWERS, in_families, rewrite, with_samples
from stores import NF4, NONE, Store, marks

from runner_base.result import Sample
from runner_compare.model.data import Run
from runner_compare.render.quantities import format_percentage_points
from runner_compare.statistics import MeanFlipTest
from runner_compare.statistics.accuracy_intervals import accuracy_interval, compute_accuracy_bound_metrics
from runner_compare.statistics.stats import compute_wilson_interval

pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")]

BASELINE = "quantization=none"
DRAW = Random(0)


@pytest.mark.thorough
def test_families_count_as_one(store: Store, rows: Any, show: Any) -> None:
    lost = [index // 10 >= 4 for index in range(200)]  # four families of twenty are lost as a whole
    in_families(store, "families", "base", NONE, [True] * 200, 10)
    in_families(store, "families", "nf4", NF4, lost, 10)
    comparison = rows("families", "--baseline", BASELINE)["nf4"]["comparison"]
    assert (comparison["method"], comparison["clusters"], comparison["samples_a_question"]) == (
        "mean_flips",
        20,
        1,
    )
    assert (comparison["wins"], comparison["losses"], comparison["ties"]) == (0, 40, 160)
    assert comparison["p"] == pytest.approx(2 / 2**4), "of four families, all signs are the same"
    assert comparison["p"] > 0.05, "40 independent losses would be clear"
    assert comparison["difference_low"] < -0.3
    assert comparison["difference_high"] >= 0
    _, out, _ = show("families", "--baseline", BASELINE, "--cluster", "template")
    assert "nf4 vs none (n=200, in 20 clusters by template): no difference shown (Δ −20.0 points" in out
    assert "p and intervals count whole questions or clusters" in out
    _, out, _ = show("families", "--baseline", BASELINE, "--margin", "5")
    assert "Undecided within 5 points" in out
    assert "would decide" not in out, "20 families say too little to plan from"
    assert (
        " Use questions from new clusters: the clusters limit the precision, not the number of questions."
        in out
    )
    assert " % power" in out
    assert " points (" in out
    assert " if whole clusters are lost)" in out
    _, out, _ = show("families", "--baseline", BASELINE, "--plan-questions", "margin=5")
    assert "a sample size estimate needs at least 80 clusters" in out
    in_families(store, "many families", "base", NONE, [True] * 200, 2)
    in_families(store, "many families", "nf4", NF4, [index >= 2 for index in range(200)], 2)
    _, out, _ = show("many families", "--baseline", BASELINE, "--margin", "2")
    assert " such clusters would decide, if" in out


def test_of_too_few_families_nothing_is_claimed(store: Store, rows: Any) -> None:
    in_families(store, "few families", "base", NONE, marks(90, 100), 20)
    in_families(store, "few families", "nf4", NF4, marks(20, 100), 20)
    row = rows("few families", "--baseline", BASELINE, "--unpaired")["nf4"]
    assert row["comparison"] is None
    assert row["note"] == "5 clusters by template are too few for a test, which needs 6"


def test_a_field_that_no_job_has_recorded_is_rejected(store: Store, show: Any) -> None:
    store.job("no families", "base", NONE, marks(90, 100))
    code, out, err = show("no families", "--cluster", "template")
    assert (code, out) == (2, "")
    assert "--cluster template: jobs did not record this field: base." in err
    assert "Run these jobs again with task.cluster=template" in err


@pytest.mark.thorough
def test_several_answers_are_compared_by_their_mean(store: Store, rows: Any, show: Any) -> None:
    base = [DRAW.randrange(5, 9) for _ in range(60)]
    fewer = [it - DRAW.randrange(0, 3) for it in base]
    with_samples(store, "several", "base", NONE, base)
    with_samples(store, "several", "nf4", NF4, fewer)
    row = rows("several", "--baseline", BASELINE)["nf4"]
    differences = [(ours - theirs) / NUMBER_OF_ANSWERS for ours, theirs in zip(fewer, base, strict=True)]
    comparison, expected = (row["comparison"], MeanFlipTest(differences, samples=NUMBER_OF_ANSWERS).effect)
    assert comparison["difference"] == pytest.approx(sum(differences) / 60)
    assert (comparison["p"], comparison["samples_a_question"], comparison["clusters"]) == (
        expected.p,
        8,
        None,
    )
    assert comparison["finding"] == "worse"
    assert row["metrics"]["correct"] == sum(it > 4 for it in fewer), "by the vote"
    accuracies = [sum(it) / (8 * 60) for it in (fewer, base)]
    assert row["metrics"]["accuracy"] == pytest.approx(accuracies[0]), "what is printed is what is compared"
    low, high = row["metrics"]["accuracy_low"], row["metrics"]["accuracy_high"]
    assert (low, high) == accuracy_interval([it / 8 for it in fewer], [None] * 60, [8] * 60)
    assert high - low < 0.6 * (
        compute_wilson_interval(60 * accuracies[0], 60)[1]
        - compute_wilson_interval(60 * accuracies[0], 60)[0]
    )
    _, out, _ = show("several", "--baseline", BASELINE)
    assert "nf4 vs none (n=60, mean of 8 samples): worse" in out
    assert f"{100 * accuracies[0]:.1f} % [{100 * low:.1f}, {100 * high:.1f}]" in out
    assert format_percentage_points(accuracies[0] - accuracies[1]) in out
    assert "questions = 60 × 8 answers" in out
    assert "the vote of k is right (a tie is shared)" in out
    assert {"pass@8", "maj@8"} <= {*out.split()}


def test_records_of_the_vote_show_the_mean_today(store: Store, rows: Any) -> None:
    """Earlier versions logged the vote's accuracy, 100 % here, and the mean as pass@1."""
    of_votes = {"accuracy": 1.0, "accuracy_low": 0.94, "accuracy_high": 1.0}
    with_samples(store, "earlier votes", "base", NONE, [8] * 60, metrics=of_votes | {"pass_at_k/1": 1.0})
    with_samples(store, "earlier votes", "nf4", NF4, [6] * 60, metrics=of_votes)
    row = rows("earlier votes", "--baseline", BASELINE)["nf4"]
    assert row["comparison"]["difference"] == -0.25
    assert (row["metrics"]["accuracy"], row["metrics"]["accuracy_low"]) == (
        0.75,
        compute_wilson_interval(45, 60)[0],
    )


def test_votes_and_one_right_of_several_are_compared_by_name(store: Store, rows: Any, show: Any) -> None:
    right = [8 if index < 30 else 3 for index in range(60)]
    with_samples(store, "by name", "base", NONE, right)
    with_samples(store, "by name", "nf4", NF4, [5 if index < 40 else 0 for index in range(60)])
    number = rows("by name", "--baseline", BASELINE, "--metric", "maj@8")["nf4"]["number"]
    assert (number["mean"], number["baseline_mean"]) == (pytest.approx(40 / 60), 0.5), "3 of 8 lose the vote"
    assert (number["measure"], number["finding"]) == ("number:maj@8", "better")
    number = rows("by name", "--baseline", BASELINE, "--metric", "pass@8")["nf4"]["number"]
    assert (number["mean"], number["baseline_mean"], number["finding"]) == (
        pytest.approx(40 / 60),
        1.0,
        "worse",
    )
    passes = [1 - comb(8 - it, 2) / comb(8, 2) for it in right]
    number = rows("by name", "--baseline", BASELINE, "--metric", "pass@2")["nf4"]["number"]
    assert number["baseline_mean"] == pytest.approx(sum(passes) / 60)
    _, out, _ = show("by name", "--baseline", BASELINE, "--metric", "maj@8")
    assert "Δ maj@8" in out
    code, _, err = show("by name", "--metric", "maj@9")
    assert code == 2
    assert "--metric maj@9: no selected run has 9 answers per question (nf4: 8)" in err
    assert show("by name", "--metric", "pass@0")[0] == 2


@pytest.mark.thorough
def test_the_mean_of_one_side_is_compared_with_the_verdicts_of_the_other(store: Store, rows: Any) -> None:
    config = {"task.samples": "1"}
    store.job("one side", "base", {**NONE, **config}, [True] * 60)
    with_samples(store, "one side", "several", NONE, [7] * 60)
    comparison = rows("one side", "--baseline", "task.samples=1")["several"]["comparison"]
    assert comparison["difference"] == pytest.approx(-1 / 8)
    assert (comparison["wins"], comparison["losses"], comparison["finding"]) == (0, 60, "worse")


def test_the_tokens_of_an_answer_are_compared(store: Store, rows: Any, show: Any) -> None:
    store.job("tokens", "base", NONE, marks(50, 60))
    folder = store.job("tokens", "nf4", NF4, marks(50, 60))

    def change(sample: Sample) -> Sample:
        return replace(sample, answer=replace(sample.answer, token_ids=[1] * (2 + sample.index % 3)))

    rewrite(folder, change)
    number = rows("tokens", "--baseline", BASELINE, "--metric", "new_tokens")["nf4"]["number"]
    assert (number["mean"], number["baseline_mean"], number["finding"]) == (3.0, 2.0, "larger")
    _, out, _ = show("tokens", "--baseline", BASELINE, "--metric", "new_tokens")
    assert "nf4 vs none (n=60): larger (Δ +1 new_tokens, 95 % interval" in out
    code, _, err = show("tokens", "--metric", "new_token")
    assert code == 2
    assert "--metric new_token: no number of a question 'new_token'" in err
    store.job("few tokens", "base", NONE, marks(10, 20))
    store.job("few tokens", "nf4", NF4, marks(10, 20))
    row = rows("few tokens", "--baseline", BASELINE, "--metric", "characters")["nf4"]
    assert row["note"].startswith("the test needs at least 50 questions, but the runs share only 20 (")


def test_the_interval_of_a_run_over_families_is_the_one_that_its_job_has_recorded() -> None:
    metrics = {"n": 200.0, "correct": 150.0, "accuracy": 0.75, "accuracy_low": 0.6, "accuracy_high": 0.86}
    plain, families = (
        Run("id", "job", "gsm8k", "2", "", {}, it) for it in (metrics, metrics | {"families": 18.0})
    )
    assert plain.accuracy_interval == (0.75, *compute_wilson_interval(150, 200))
    assert families.accuracy_interval == (0.75, 0.6, 0.86)


@pytest.mark.thorough
def test_runs_that_are_pooled_have_an_interval_over_their_families(store: Store, rows: Any) -> None:
    solved = [index // 10 < 12 for index in range(200)]  # whole families are right or wrong
    for split in ("test", "hard"):
        for name, config in (("base", NONE), ("nf4", NF4)):
            config = config | {"task.split": split}
            in_families(store, "families by split", f"{name}-{split}", config, solved, 10, questions=split)
    for row in rows("families by split", "--by", "quantization", "--baseline", BASELINE).values():
        families = [str(index // 10) for index in range(200)] * 2  # a template has questions in both splits
        ends = row["metrics"]["accuracy_low"], row["metrics"]["accuracy_high"]
        assert ends == pytest.approx(accuracy_interval(solved * 2, families))
        assert ends[1] - ends[0] > 3 * (
            compute_wilson_interval(240, 400)[1] - compute_wilson_interval(240, 400)[0]
        )
        assert row["metrics"]["families"] == 20


def test_without_a_limit_the_interval_of_several_answers_is_the_one_that_its_job_has_recorded() -> None:
    """Each question has a share of right answers, which no number of right questions stands for."""
    recorded = compute_accuracy_bound_metrics([0.75] * 19 + [0.5], [1.0] * 19 + [0.5], [None] * 20, [4] * 20)
    run = Run("run", "run", "any", "1", "", {}, {"n": 20.0, "correct": 19.0, "answers_each": 4.0, **recorded})
    assert run.accuracy_bounds == tuple(recorded.values())
