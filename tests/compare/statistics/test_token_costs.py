"""Tokens of answers: right answers per 1,000 tokens and savings, where the truth is known, in both
directions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from runner_compare.statistics import ALPHA
from runner_compare.statistics.accuracy_intervals import accuracy_interval
from runner_compare.statistics.stats import compute_wilson_interval
from runner_compare.statistics.token_costs import (
    Estimate,
    TokenCells,
    TokenCost,
    TokenFinding,
    TokenSaving,
    compute_break_even_questions,
    compute_correlation_between_means,
    compute_estimate_ratio_interval,
)


def cells(tokens: list[float], solved: list[bool] | None = None) -> TokenCells:
    """One seed's questions, all of whose tokens are prompt tokens."""
    return TokenCells([tokens], [[0.0] * len(tokens)], [solved or [True] * len(tokens)])


def judged(saving: TokenSaving) -> TokenSaving:
    saving.p_holm = saving.p
    if saving.p < ALPHA:
        saving.finding = TokenFinding.saves if saving.both.value > 0 else TokenFinding.costs_more
    return saving


def test_the_interval_of_a_ratio_ends_where_the_difference_may_be_0() -> None:
    top, bottom = Estimate(0.8, 0.7, 0.86), Estimate(2.0, 1.9, 2.2)
    low, high = compute_estimate_ratio_interval(top, bottom, 0.3)
    for end, above, below in ((low, 0.1, 0.2), (high, 0.06, 0.1)):
        gap = (0.8 - end * 2.0) ** 2 - (above**2 + (end * below) ** 2 - 2 * 0.3 * end * above * below)
        assert gap == pytest.approx(0, abs=1e-12)
    assert compute_estimate_ratio_interval(top, Estimate(2.0, 2.0, 2.0), 0.0) == pytest.approx((0.35, 0.43))
    assert compute_estimate_ratio_interval(top, Estimate(2.0, -1.0, 5.0), 0.0) == (0.0, math.inf), (
        "the tokens may be none"
    )


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("n", "accuracy", "link"), [(20, 0.97, 1.0), (50, 0.7, -1.0), (200, 0.9, 1.0)])
def test_the_interval_holds_the_true_right_answers_per_1000_tokens(
    n: int, accuracy: float, link: float
) -> None:
    """`link`: whether hard questions take more tokens. The control is another truth, which is
    mostly excluded."""
    from scipy.stats import norm

    draw, jobs, bar = np.random.default_rng(n), 300, float(norm.ppf(accuracy))
    true = 1000 * accuracy / (400 * math.exp((0.16 + 0.09) / 2))
    inside, other = 0, 0
    for _ in range(jobs):
        hard = draw.normal(size=n)
        solved = (0.8 * hard + 0.6 * draw.normal(size=n) < bar).tolist()
        tokens = (400 * np.exp(0.4 * link * hard + 0.3 * draw.normal(size=n))).tolist()
        share = Estimate(float(np.mean(solved)), *accuracy_interval(solved, [None] * n))
        cost = TokenCost.from_cells(cells(tokens, solved), share)
        assert cost is not None
        inside += cost.correct_per_1000.low <= true <= cost.correct_per_1000.high
        other += cost.correct_per_1000.low <= 1.5 * true <= cost.correct_per_1000.high
    assert compute_wilson_interval(inside, jobs)[1] >= 0.94
    assert other < 0.4 * jobs


def test_all_right_answers_still_leave_room_below() -> None:
    cost = TokenCost.from_cells(cells([500.0] * 10), Estimate(1.0, 0.7, 1.0))
    assert cost is not None
    assert cost.correct_per_1000 == pytest.approx((2.0, 1.4, 2.0))
    assert TokenCost.from_cells(cells([0.0] * 10), Estimate(1.0, 0.7, 1.0)) is None, (
        "a server that counts none"
    )


def test_a_team_that_saves_and_one_that_costs_more() -> None:
    draw = np.random.default_rng(0)
    base = draw.normal(1000, 200, size=80)
    fewer, more = base - draw.normal(100, 30, size=80), base + draw.normal(50, 30, size=80)
    saving = judged(TokenSaving.from_cells(cells(fewer.tolist()), cells(base.tolist()), 20_000))
    assert saving.finding is TokenFinding.saves
    assert saving.both.low <= 100 <= saving.both.high
    after = saving.break_even_question_count
    assert after is not None
    assert after.value == pytest.approx(20_000 / saving.both.value)
    assert after.low <= 200 <= after.high
    costing = judged(TokenSaving.from_cells(cells(more.tolist()), cells(base.tolist()), 20_000))
    assert costing.finding is TokenFinding.costs_more
    assert costing.both.value < 0
    assert costing.break_even_question_count is None


def test_equal_teams_seldom_save() -> None:
    draw, pairs = np.random.default_rng(3), 300
    wrong = 0
    for _ in range(pairs):
        base = draw.lognormal(6, 0.5, size=40)
        ours = draw.permutation(base) if draw.random() < 0.5 else draw.lognormal(6, 0.5, size=40)
        saving = judged(TokenSaving.from_cells(cells(ours.tolist()), cells(base.tolist()), 1000.0))
        wrong += saving.finding is not TokenFinding.open
        assert (saving.break_even_question_count is None) == (saving.finding is not TokenFinding.saves)
    assert compute_wilson_interval(wrong, pairs)[0] <= 0.05


def test_few_questions_show_no_saving_however_alike_they_are() -> None:
    saving = judged(TokenSaving.from_cells(cells([90.0] * 5), cells([100.0] * 5)))
    assert saving.p == 2**-4
    assert saving.both.low <= 0 < saving.both.value
    assert judged(TokenSaving.from_cells(cells([90.0] * 6), cells([100.0] * 6))).finding is TokenFinding.saves


def test_break_even_and_correlation() -> None:
    assert compute_break_even_questions(1000, 90, 100) == 100
    assert compute_break_even_questions(1000, 100, 100) is None
    assert compute_break_even_questions(1000, 110, 100) is None
    ones = [[1.0, 2.0, 3.0, 5.0]]
    assert compute_correlation_between_means(ones, [[2 * it for it in ones[0]]]) == pytest.approx(1)
    assert compute_correlation_between_means(ones, [[-it for it in ones[0]]]) == pytest.approx(-1)
    assert compute_correlation_between_means(ones, [[4.0] * 4]) == 0
