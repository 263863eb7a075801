"""The interval of an accuracy over families: what it does at the edges, and beside Wilson's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from runner_compare.statistics.accuracy_intervals import (
    clustered_accuracy_interval,
    compute_accuracy_bound_metrics,
    compute_accuracy_metrics,
    compute_exact_accuracy_interval,
)
from runner_compare.statistics.stats import compute_clopper_pearson_interval, compute_wilson_interval


def test_a_question_is_a_cluster_of_its_answers() -> None:
    right = [4, 3, 0, 1, 4, 2, 4, 4, 3, 0] * 6
    figures = compute_accuracy_metrics([it / 4 for it in right], [None] * 60, [4] * 60)
    flat = [answer < it for it in right for answer in range(4)]
    ends = clustered_accuracy_interval(flat, [at // 4 for at in range(240)])
    assert figures["accuracy"] == sum(flat) / 240
    assert (figures["accuracy_low"], figures["accuracy_high"]) == pytest.approx(ends)
    independent = compute_wilson_interval(sum(flat), 240)
    assert ends[1] - ends[0] > 1.2 * (independent[1] - independent[0]), "answers are no questions"
    single = compute_accuracy_metrics([float(it > 2) for it in right], [None] * 60, [1] * 60)
    assert (single["accuracy_low"], single["accuracy_high"]) == compute_wilson_interval(36, 60)


def test_independent_questions_have_nearly_wilsons_interval() -> None:
    solved = [number % 3 > 0 for number in range(600)]
    low, high = clustered_accuracy_interval(solved, range(600))
    assert (low, high) == pytest.approx(compute_wilson_interval(400, 600), abs=0.003)
    assert low < compute_wilson_interval(400, 600)[0]


def test_families_whose_questions_agree_count_once() -> None:
    families = [number // 10 for number in range(400)]
    low, high = clustered_accuracy_interval([family % 2 == 0 for family in families], families)
    of_families = compute_wilson_interval(20, 40)
    assert (low, high) == pytest.approx(of_families, abs=0.02)
    assert high - low > 2.5 * (compute_wilson_interval(200, 400)[1] - compute_wilson_interval(200, 400)[0])


def test_questions_that_differ_within_families_only_are_not_worth_more_than_questions() -> None:
    low, high = clustered_accuracy_interval(
        [number % 2 == 0 for number in range(400)], [it // 4 for it in range(400)]
    )
    plain = compute_wilson_interval(200, 400)
    assert low <= plain[0]
    assert high >= plain[1]


@pytest.mark.parametrize("right", [True, False])
def test_if_all_answers_agree_the_families_are_counted(right: bool) -> None:
    low, high = clustered_accuracy_interval([right] * 200, [number // 10 for number in range(200)])
    assert high == pytest.approx(1.0 if right else 0.18, abs=0.02)
    assert low == pytest.approx(0.82 if right else 0.0, abs=0.02)


def test_one_family_says_nothing() -> None:
    assert clustered_accuracy_interval([True, False], ["a", "a"]) == (0.0, 1.0)


@pytest.mark.parametrize("n", [8, 20, 50, 200])
def test_each_end_of_a_guaranteed_interval_misses_in_at_most_2_5_percent_whatever_the_truth_is(
    n: int,
) -> None:
    truths, counts = np.linspace(0.0005, 0.9995, 1999), np.arange(n + 1)
    chances = binom.pmf(counts[:, None], n, truths)
    for interval, holds in ((compute_clopper_pearson_interval, True), (compute_wilson_interval, False)):
        ends = np.array([interval(int(k), n) for k in counts])
        too_high = (chances * (ends[:, :1] > truths)).sum(0).max()
        too_low = (chances * (ends[:, 1:] < truths)).sum(0).max()
        assert bool(max(too_high, too_low) <= 0.025) is holds, (interval.__name__, too_high, too_low)


def test_the_guarantee_of_families_is_that_of_questions_where_each_is_a_family() -> None:
    solved, names = [number % 4 > 0 for number in range(40)], [f"q{number}" for number in range(40)]
    assert compute_exact_accuracy_interval(solved, names) == pytest.approx(
        compute_clopper_pearson_interval(30, 40), abs=1e-6
    )
    for right in (True, False):
        assert compute_exact_accuracy_interval([right] * 20, names[:20]) == pytest.approx(
            compute_clopper_pearson_interval(20 * right, 20), abs=1e-6
        )
    alike = compute_exact_accuracy_interval(
        [number < 30 for number in range(40)], [str(number // 10) for number in range(40)]
    )
    assert alike == pytest.approx(compute_clopper_pearson_interval(3, 4), abs=1e-6), (
        "four families, of which three are solved"
    )
    bounds = compute_accuracy_bound_metrics([False] * 5 + [True] * 15, [True] * 20, [None] * 20)
    assert bounds["accuracy_uncut_low"] == compute_clopper_pearson_interval(15, 20)[0]
    assert bounds["accuracy_uncut_high"] == 1.0
