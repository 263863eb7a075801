"""Non-inferiority tests and their sample sizes.

A run is as good as its baseline within a margin if a test shows that the true difference is
above minus the margin. No test can show that two runs are equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum
from functools import lru_cache
from statistics import NormalDist
from typing import Any

from runner_compare.statistics.sequential import Side
from runner_compare.statistics.stats import ALPHA, POWER, continuity_correction

MAX_QUESTIONS = 10_000_000
NEAR = 0.03  # of a power: what a plan may miss
Pairs = tuple[int, int, int]  # wins, losses, and all pairs
NO_PAIRS = (0, 0, 0)


class MarginVerdict(StrEnum):
    """Possible verdicts on whether a run is as good as its baseline within a margin."""

    better = "better"
    as_good = "as good"
    worse_but_within = "worse, but as good within the margin"
    worse_by_more = "worse by more"
    undecided = "undecided"


def decide_sequential_verdict(difference_side: Side, margin_side: Side) -> MarginVerdict:
    if difference_side is Side.better:
        return MarginVerdict.better
    if margin_side is Side.better:
        return MarginVerdict.as_good if difference_side is Side.open else MarginVerdict.worse_but_within
    return MarginVerdict.undecided if margin_side is Side.open else MarginVerdict.worse_by_more


def compute_non_inferiority_sample_size(
    margin: float,
    discordant_rate: float,
    alpha: float = ALPHA,
    power: float = POWER,
    observed_pairs: Pairs = NO_PAIRS,
) -> int | None:
    """Return the number of paired questions needed to show non-inferiority if both runs are equally good.

    `discordant_rate` is the fraction of further questions that only one of the two solves.
    `observed_pairs` are pairs that count among the questions. The power is exact: a sum over all
    tables. It moves in steps, and the number is the first with at least that power, or one fewer
    if the power there is too high. None if ten million questions are not enough.
    """
    assert 0 < margin < 1
    assert 0 <= discordant_rate <= 1

    def power_at(n: int) -> float:
        return compute_non_inferiority_power(n, margin, discordant_rate, alpha, observed_pairs=observed_pairs)

    needed = find_smallest_sample_size(power_at, power)
    # Where few pairs differ, the power jumps: one question fewer may be closer to what was asked
    # for.
    if needed and power_at(needed) > power + NEAR and power_at(needed - 1) >= power - NEAR:
        return needed - 1
    return needed


def find_smallest_sample_size(compute_power: Callable[[int], float], power: float) -> int | None:
    """Return the smallest sample size that reaches a power, with a precision of 0.1 %.

    Returns None if more than ten million are needed.
    """
    low, high = 1, 2
    while compute_power(high) < power:
        low, high = high, 2 * high
        if high > MAX_QUESTIONS:
            return None
    # the power is not quite monotonic, so a closer search is useless
    while high - low > max(1, low // 1000):
        middle = (low + high) // 2
        if compute_power(middle) < power:
            low = middle
        else:
            high = middle
    return high


@lru_cache(maxsize=1024)
def compute_non_inferiority_power(
    n: int,
    margin: float,
    discordant_rate: float,
    alpha: float = ALPHA,
    difference: float = 0.0,
    observed_pairs: Pairs = NO_PAIRS,
) -> float:
    """Return the probability that n paired questions show non-inferiority, given the true
    difference.

    The n questions include the `observed_pairs` pairs, so the power is 0 for fewer.
    """
    import numpy as np
    from scipy.special import bdtrc

    assert abs(difference) <= discordant_rate
    seen_wins, seen_losses, seen_pairs = observed_pairs
    if n < seen_pairs:
        return 0.0
    further, chances = compute_success_count_distribution(n - seen_pairs, discordant_rate)
    discordant = further + seen_wins + seen_losses
    # Find the fewest wins that are accepted for each number of discordant pairs: with more wins,
    # all are accepted.
    low, high = np.full(len(discordant), -1), discordant + 1
    while (high - low > 1).any():
        wins = (low + high) // 2
        accepted = _shows_non_inferiority(wins, discordant - wins, n, margin, alpha)
        low, high = np.where(accepted, low, wins), np.where(accepted, wins, high)
    win = (discordant_rate + difference) / (2 * discordant_rate) if discordant_rate else 0.5
    return float(chances @ bdtrc(np.minimum(high - 1 - seen_wins, further), further, win))


def compute_success_count_distribution(n: int, rate: float) -> tuple[Any, Any]:
    """Return the numbers of successes in n trials that are likely, and the probability of each."""
    import numpy as np

    # takes half a second to import, and only planning needs it
    from scipy.special import bdtr, ndtri

    half = -ndtri(1e-9) * math.sqrt(n * rate * (1 - rate)) + 10
    first, last = max(0, math.floor(n * rate - half)), min(n, math.ceil(n * rate + half))
    below = bdtr(np.arange(first - 1, last + 1, dtype=float).clip(0), n, rate)
    if first == 0:
        below[0] = 0.0
    return np.arange(first, last + 1), np.diff(below)


def _shows_non_inferiority(wins: Any, losses: Any, n: int, margin: float, alpha: float) -> Any:
    """Test non-inferiority for many pairs of win and loss counts in one vectorized call.

    Testing one pair at a time takes a hundred times as long.
    """
    from scipy.special import bdtr

    has_few_losses = (wins - losses + n * margin > 0) & (bdtr(losses.astype(float), n, margin) < alpha / 2)
    return has_few_losses | shows_non_inferiority_by_score(wins, losses, n, margin, alpha)


def shows_non_inferiority_by_score(wins: Any, losses: Any, n: int, margin: float, alpha: float) -> Any:
    """Return where Tango's score test shows non-inferiority. Needs no scipy, and is too strict where
    losses are few.
    """
    import numpy as np

    distance = wins - losses + n * margin
    beyond = distance - continuity_correction(wins, losses, n)
    linear = -(2 * n - wins + losses) * margin - wins - losses
    constant = losses * margin * (1 + margin)
    only_second = (np.sqrt(np.maximum(0.0, linear * linear - 8 * n * constant)) - linear) / (4 * n)
    variance = n * (2 * only_second - margin * (1 + margin))
    z = NormalDist().inv_cdf(1 - alpha / 2)
    return (distance > 0) & (beyond > 0) & (beyond * beyond > z * z * np.maximum(variance, 0.0))
