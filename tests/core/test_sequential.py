"""Bets on paired verdicts: exact values, the mean gain, and how often a simulated difference is missed."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest

from runner.core.sequential import SHARES, Decision, Pairs, log_capital, p_of
from runner.core.stats import ALPHA, wilson_interval


def test_the_capital_is_the_mean_over_the_shares_by_hand() -> None:
    shares = [Fraction(str(share)) for share in SHARES]
    exact = sum((1 + f) ** 5 * (1 - f) ** 2 for f in shares) / len(shares)
    assert log_capital(5, 2, 99) == pytest.approx(math.log(exact), rel=1e-12)  # ties change nothing against 0
    against = Fraction(1, 4)  # a win multiplies the played part by 2 / (1 + 1/4), a tie by half of that
    exact = sum((1 + f * Fraction(3, 5)) ** 3 * (1 - f) * (1 - f * Fraction(1, 5)) ** 2 for f in shares) / len(shares)
    assert log_capital(3, 1, 2, float(against)) == pytest.approx(math.log(exact), rel=1e-12)


def test_eight_pairs_that_all_point_one_way_decide_and_seven_do_not() -> None:
    assert p_of(7, 0) == pytest.approx(0.0698, abs=1e-4)
    assert p_of(8, 0) == p_of(0, 8) == pytest.approx(0.0402, abs=1e-4)
    assert p_of(0, 0) == p_of(10, 10) == 1


@pytest.mark.parametrize("difference", [-0.3, 0.0, 0.2])
def test_bets_win_nothing_on_average_against_the_truth(difference: float) -> None:
    won, lost = 0.35 + difference / 2, 0.35 - difference / 2
    for wins, losses, ties in ((0, 0, 0), (4, 9, 3), (30, 2, 50)):
        now = log_capital(wins, losses, ties, difference)
        after = (
            won * math.exp(log_capital(wins + 1, losses, ties, difference) - now)
            + lost * math.exp(log_capital(wins, losses + 1, ties, difference) - now)
            + (1 - won - lost) * math.exp(log_capital(wins, losses, ties + 1, difference) - now)
        )
        assert after == pytest.approx(1, rel=1e-12)


def test_the_larger_a_claim_the_less_is_won_against_it() -> None:
    claims = [number / 10 - 0.95 for number in range(20)]
    for counts in ((5, 0, 0), (0, 5, 5), (12, 7, 40)):
        capitals = [log_capital(*counts, claim) for claim in claims]
        assert capitals == sorted(capitals, reverse=True)


def drawn(generator: random.Random, won: float, lost: float, count: int) -> list[tuple[bool, bool]]:
    """Return random pairs, of which these shares are won and lost."""
    return [(it < won, won <= it < won + lost) for it in (generator.random() for _ in range(count))]


def test_the_interval_narrows_only_and_decides_when_it_leaves_0_out() -> None:
    generator = random.Random(5)
    decisions = set()
    for won, lost in ((0.3, 0.05), (0.05, 0.3), (0.1, 0.1), (0.9, 0.0), (0.0, 0.9)):
        pairs = Pairs()
        for ours, theirs in drawn(generator, won, lost, 120):
            before = pairs.low, pairs.high, pairs.p, pairs.decision
            pairs.add(ours, theirs)
            assert before[0] <= pairs.low <= pairs.difference + 1e-9
            assert before[1] >= pairs.high >= pairs.difference - 1e-9
            assert pairs.p <= before[2]
            is_out = pairs.low >= 0 or pairs.high <= 0
            assert is_out == (pairs.p <= ALPHA) == (pairs.decision is not Decision.open)
            assert before[3] in (Decision.open, pairs.decision)
        assert pairs.count == 120
        decisions.add(pairs.decision)
    assert decisions == set(Decision)


@pytest.mark.parametrize(("won", "lost"), [(0.1, 0.1), (0.02, 0.02), (0.25, 0.1)])
def test_the_truth_is_hardly_ever_left_out_at_any_of_many_looks(won: float, lost: float) -> None:
    generator, trials, missed = random.Random(11), 100, 0
    for _ in range(trials):
        pairs = Pairs()
        for pair in drawn(generator, won, lost, 100):
            pairs.add(*pair)
        missed += not pairs.low <= won - lost <= pairs.high  # ends never go back: the last look has all of them
    assert wilson_interval(missed, trials)[0] <= ALPHA, missed


def test_a_large_difference_is_seen_soon() -> None:
    generator = random.Random(3)
    needed = []
    for _ in range(50):
        pairs = Pairs()
        for pair in drawn(generator, 0.05, 0.25, 600):  # 20 points
            pairs.add(*pair)
            if pairs.decision is not Decision.open:
                break
        needed.append(pairs.count)
        assert pairs.decision is not Decision.better
    assert sorted(needed)[25] < 120
