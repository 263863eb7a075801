"""Bets on paired verdicts: exact values, the mean gain, and how often a simulated difference is
missed."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest

from runner_compare.render.margins import format_significance_level
from runner_compare.statistics import ALPHA
from runner_compare.statistics.sequential import (
    SHARES,
    SequentialPairs,
    Side,
    comparison_level,
    compute_log_e_value,
    compute_sequential_p_value,
    confidence_percent,
)
from runner_compare.statistics.stats import compute_wilson_interval


def test_the_capital_is_the_mean_over_the_shares_by_hand() -> None:
    shares = [Fraction(str(share)) for share in SHARES]
    exact = sum((1 + f) ** 5 * (1 - f) ** 2 for f in shares) / len(shares)
    # ties change nothing against 0
    assert compute_log_e_value(5, 2, 99) == pytest.approx(math.log(exact), rel=1e-12)
    # a win multiplies the played part by 2 / (1 + 1/4), a tie by half of that
    against = Fraction(1, 4)
    exact = sum(
        (1 + f * Fraction(3, 5)) ** 3 * (1 - f) * (1 - f * Fraction(1, 5)) ** 2 for f in shares
    ) / len(shares)
    assert compute_log_e_value(3, 1, 2, float(against)) == pytest.approx(math.log(exact), rel=1e-12)


def test_eight_pairs_that_all_point_one_way_decide_and_seven_do_not() -> None:
    assert compute_sequential_p_value(7, 0) == pytest.approx(0.0698, abs=1e-4)
    assert (
        compute_sequential_p_value(8, 0)
        == compute_sequential_p_value(0, 8)
        == pytest.approx(0.0402, abs=1e-4)
    )
    assert compute_sequential_p_value(0, 0) == compute_sequential_p_value(10, 10) == 1


@pytest.mark.parametrize("difference", [-0.3, 0.0, 0.2])
def test_bets_win_nothing_on_average_against_the_truth(difference: float) -> None:
    won, lost = 0.35 + difference / 2, 0.35 - difference / 2
    for wins, losses, ties in ((0, 0, 0), (4, 9, 3), (30, 2, 50)):
        now = compute_log_e_value(wins, losses, ties, difference)
        after = (
            won * math.exp(compute_log_e_value(wins + 1, losses, ties, difference) - now)
            + lost * math.exp(compute_log_e_value(wins, losses + 1, ties, difference) - now)
            + (1 - won - lost) * math.exp(compute_log_e_value(wins, losses, ties + 1, difference) - now)
        )
        assert after == pytest.approx(1, rel=1e-12)


def test_the_larger_a_claim_the_less_is_won_against_it() -> None:
    claims = [number / 10 - 0.95 for number in range(20)]
    for counts in ((5, 0, 0), (0, 5, 5), (12, 7, 40)):
        capitals = [compute_log_e_value(*counts, claim) for claim in claims]
        assert capitals == sorted(capitals, reverse=True)


def drawn(generator: random.Random, won: float, lost: float, count: int) -> list[tuple[bool, bool]]:
    """Return random pairs, of which these shares are won and lost."""
    return [(it < won, won <= it < won + lost) for it in (generator.random() for _ in range(count))]


@pytest.mark.thorough
def test_the_interval_narrows_only_and_decides_when_it_leaves_0_out() -> None:
    generator = random.Random(5)
    decisions = set()
    for won, lost in ((0.3, 0.05), (0.05, 0.3), (0.1, 0.1), (0.9, 0.0), (0.0, 0.9)):
        pairs = SequentialPairs()
        for ours, theirs in drawn(generator, won, lost, 120):
            before = pairs.interval_low, pairs.interval_high, pairs.p, pairs.decision
            pairs.add_pair(ours, theirs)
            assert before[0] <= pairs.interval_low <= pairs.difference + 1e-9
            assert before[1] >= pairs.interval_high >= pairs.difference - 1e-9
            assert pairs.p <= before[2]
            is_out = pairs.interval_low >= 0 or pairs.interval_high <= 0
            assert is_out == (pairs.p <= ALPHA) == (pairs.decision is not Side.open)
            assert before[3] in (Side.open, pairs.decision)
        assert pairs.num_pairs == 120
        decisions.add(pairs.decision)
    assert decisions == set(Side)


@pytest.mark.thorough
@pytest.mark.parametrize(("won", "lost"), [(0.1, 0.1), (0.02, 0.02), (0.25, 0.1)])
def test_the_truth_is_hardly_ever_left_out_at_any_of_many_looks(won: float, lost: float) -> None:
    generator, trials, missed = random.Random(11), 100, 0
    for _ in range(trials):
        pairs = SequentialPairs()
        for pair in drawn(generator, won, lost, 100):
            pairs.add_pair(*pair)
        # ends never go back: the last look has all of them
        missed += not pairs.interval_low <= won - lost <= pairs.interval_high
    assert compute_wilson_interval(missed, trials)[0] <= ALPHA, missed


def test_a_large_difference_is_seen_soon() -> None:
    generator = random.Random(3)
    needed = []
    for _ in range(50):
        pairs = SequentialPairs()
        for pair in drawn(generator, 0.05, 0.25, 600):  # 20 points
            pairs.add_pair(*pair)
            if pairs.decision is not Side.open:
                break
        needed.append(pairs.num_pairs)
        assert pairs.decision is not Side.better
    assert sorted(needed)[25] < 120


def test_a_level_is_a_share_of_5_percent() -> None:
    assert [comparison_level(count) for count in (1, 2, 5)] == [0.05, 0.025, 0.01]
    assert [format_significance_level(count) for count in (1, 3, 40)] == [
        "5 %",
        "1.7 % (5 % shared by 3 jobs)",
        "0.12 % (5 % shared by 40 jobs)",
    ]
    assert [confidence_percent(count) for count in (1, 2, 3, 1000)] == [95, 97.5, 98.3, 99.995]


def test_a_stricter_level_decides_later_and_has_a_wider_interval() -> None:
    few, many = SequentialPairs(), SequentialPairs(comparison_level(5))
    decided: dict[str, int] = {}
    for number in range(1, 15):
        for name, pairs in (("few", few), ("many", many)):
            pairs.add_pair(True, False)
            if pairs.decision is not Side.open:
                decided.setdefault(name, number)
    # 1.9 ** n / 9 and what the other shares add, against 40 and 200
    assert decided == {"few": 8, "many": 11}
    assert compute_sequential_p_value(11, 0) <= 0.01 < compute_sequential_p_value(10, 0)
    assert many.interval_low < few.interval_low


def test_the_interval_does_not_depend_on_how_often_it_is_asked_for() -> None:
    generator = random.Random(8)
    for won, lost in ((0.3, 0.05), (0.1, 0.1), (0.0, 0.4)):
        at_once, each = SequentialPairs(), SequentialPairs()
        for pair in drawn(generator, won, lost, 150):
            at_once.add_pair(*pair)
            each.add_pair(*pair)
            assert -1 <= each.interval_low <= each.interval_high <= 1
        assert (at_once.interval_low, at_once.interval_high) == (each.interval_low, each.interval_high)
        looks = at_once.looks
        for end, side in ((at_once.interval_low, Side.better), (at_once.interval_high, Side.worse)):
            for step, expected in ((1e-5, Side.open), (-1e-5, side)):
                inside = end + step if side is Side.better else end - step
                capitals = [
                    compute_log_e_value(wins, losses, ties, inside) if side is Side.better else
                    compute_log_e_value(losses, wins, ties, -inside)
                    for wins, losses, ties in looks
                ]  # fmt: skip
                assert (max(capitals) >= math.log(40)) == (expected is side)
                assert at_once.find_first_decided_side(inside) is expected


@pytest.mark.parametrize(
    ("won", "lost", "side"), [(0.02, 0.01, Side.better), (0.0, 0.4, Side.worse), (0.1, 0.15, Side.open)]
)
def test_a_margin_is_decided_by_the_same_interval(won: float, lost: float, side: Side) -> None:
    generator, pairs = random.Random(2), SequentialPairs(margin=0.05)
    for pair in drawn(generator, won, lost, 400):
        pairs.add_pair(*pair)
        if pairs.from_margin is not Side.open:
            break
    assert pairs.from_margin is side
    assert pairs.find_first_decided_side(-0.05) is side
    assert (pairs.interval_low >= -0.05 - 1e-5, pairs.interval_high <= -0.05 + 1e-5) == (
        side is Side.better,
        side is Side.worse,
    )
