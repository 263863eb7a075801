"""Accuracy at equal tokens: values worked out by hand, and what is not compared."""

from __future__ import annotations

import pytest

from runner_compare.statistics import Finding
from runner_compare.statistics.equal_tokens import (
    BudgetCurve,
    compare_accuracies_at_equal_tokens,
    decide_equal_tokens,
)

N = 100


def curve(*points: tuple[float, int]) -> BudgetCurve:
    """Return a curve through points of tokens and right answers of N; all questions take the same
    tokens."""
    return BudgetCurve(
        [[float(at < right) for at in range(N)] for _, right in points],
        [[tokens] * N for tokens, _ in points],
    )


def test_the_mean_is_that_of_the_lines_over_the_shared_tokens() -> None:
    ours, theirs = curve((0, 20), (40, 60), (200, 90)), curve((20, 20), (120, 70))
    it = compare_accuracies_at_equal_tokens(ours, theirs)
    assert it is not None
    assert (it.low_tokens, it.high_tokens) == (20, 120)
    # ours: 40 % at 20, 60 % at 40, 75 % at 120; theirs: 20 % at 20, 70 % at 120
    assert it.difference.value == pytest.approx(
        (20 * (0.4 + 0.6) / 2 + 80 * (0.6 + 0.75) / 2 - 100 * 0.45) / 100
    )
    (point,) = it.points
    assert (point.budget, point.tokens, point.accuracy, it.outside) == (1, 40, 0.6, [0, 2])
    assert point.baseline_accuracy == pytest.approx(0.3)
    assert point.difference.low <= 0.3 <= point.difference.high
    decide_equal_tokens([it])
    assert it.finding is Finding.better


def test_where_few_questions_differ_at_a_budget_the_interval_is_that_of_their_signs() -> None:
    ours, theirs = curve((0, 20), (40, 21), (80, 90)), curve((0, 20), (40, 20), (80, 40))
    it = compare_accuracies_at_equal_tokens(ours, theirs)
    assert it is not None
    point = next(one for one in it.points if one.budget == 1)
    assert point.difference.value == pytest.approx(0.01)
    assert point.difference.low < 0, "one question does not show that the setting is better"


def test_curves_that_do_not_overlap_are_not_compared() -> None:
    assert compare_accuracies_at_equal_tokens(curve((0, 20), (40, 60)), curve((50, 20), (120, 70))) is None
    assert compare_accuracies_at_equal_tokens(curve((50, 20), (120, 70)), curve((0, 20), (50, 60))) is None


def test_equal_curves_do_not_differ_and_a_flat_one_needs_no_tokens() -> None:
    same = curve((10, 50), (10, 50), (90, 70))
    it = compare_accuracies_at_equal_tokens(same, same)
    assert it is not None
    decide_equal_tokens([it])
    assert (it.difference.value, it.p, it.finding) == (0.0, 1.0, Finding.open)
    assert it.difference.low < 0 < it.difference.high, (
        "no differing question does not show that none will differ"
    )
