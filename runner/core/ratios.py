"""The statistics of sums over sums: nats a token over samples of unequal length, and paired differences of them.

Tokens of one text hang together, so samples are what is counted: a ratio is the sum of one number over all samples,
divided by the sum of another, and its error comes from how far the samples lie from that ratio. Pure Python.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from operator import getitem
from random import Random
from statistics import NormalDist

from runner.core.stats import CONFIDENCE, POWER, student_quantile

FLIPS = 9_999  # of signs that are drawn at most, where all of them would be too many
ENOUGH = 400  # drawn sums that reach the one seen: p is known to a twentieth of itself, and no more are drawn
EXACT_FLIPS = 14  # samples up to which all are counted
ROUNDING = 1e-12  # as a share of the largest sum: sums that are equal on paper
GROUP = 8  # samples whose signed sums stand in one table
CAUTION = 2.0  # times the share of flips, which alone calls up to 7.5 % of skewed pairs different and not 5


def ratio(tops: Sequence[float], bottoms: Sequence[float]) -> float:
    """Return the sum of the tops over the sum of the bottoms."""
    return math.fsum(tops) / math.fsum(bottoms)


def ratio_error(tops: Sequence[float], bottoms: Sequence[float]) -> float:
    """Return the standard error of such a ratio over samples, by linearisation; infinity of fewer than two samples."""
    n, centre = len(tops), ratio(tops, bottoms)
    if n < 2:
        return math.inf
    squares = math.fsum((top - centre * bottom) ** 2 for top, bottom in zip(tops, bottoms, strict=True))
    return math.sqrt(n / (n - 1) * squares) / math.fsum(bottoms)


def ratio_interval(tops: Sequence[float], bottoms: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of such a ratio: Student's t over the samples; without end where there is only one."""
    centre, error = ratio(tops, bottoms), ratio_error(tops, bottoms)
    if math.isinf(error):
        return -math.inf, math.inf
    half = student_quantile(1 - CONFIDENCE, len(tops) - 1) * error
    return centre - half, centre + half


def sign_flip_p(differences: Sequence[float], flips: int = FLIPS, seed: int = 0) -> float:
    """Return the two-sided p of paired differences by flipping their signs, which changes nothing if both are alike.

    The statistic is their sum. Where each is summed over a sample's tokens, it is the difference of the ratios times
    the tokens, which both sides have in common: samples count by their length, and no denominator changes. Divided by
    the root of the sum of squares, which no flip changes either, it is the ratio's studentized difference: so the test
    holds its level for many samples also where differences are skewed. All flips are counted for a few samples, and
    drawn with a fixed seed for more: the same answer each time, and p is never below 1 / (flips + 1). Drawing ends
    early where p is plainly large; the share of sums that reach the one seen is then p (Besag and Clifford, 1991).
    """
    moved = [difference for difference in differences if difference]
    seen = abs(math.fsum(moved)) - ROUNDING * math.fsum(map(abs, moved))
    if not moved:
        return 1.0
    if len(moved) <= EXACT_FLIPS:
        sums = [abs(sum(signed)) for signed in product(*((-one, one) for one in moved))]
        return sum(one >= seen for one in sums) / len(sums)
    tables = [_signed_sums(moved[at : at + GROUP]) for at in range(0, len(moved), GROUP)]
    draw = Random(seed).randbytes
    beyond = 0
    for drawn in range(1, flips + 1):
        beyond += abs(sum(map(getitem, tables, draw(len(tables))))) >= seen
        if beyond == ENOUGH:
            return beyond / drawn
    return (1 + beyond) / (1 + flips)


def paired_p(differences: Sequence[float]) -> float:
    """Return the p that two runs are alike, by their paired differences: that of flipped signs, with caution.

    Flips are exact where a difference is as often up as down. Where a few samples move far and one way, up to
    7.5 % of equal pairs are called different and not 5. Their own skewness tells too little of that: the larger p of
    flips and of Johnson's t, or of a bootstrap of t, stays above 5 %, too (bench/likelihood_tests.py).
    """
    return min(1.0, CAUTION * sign_flip_p(differences))


def _signed_sums(values: Sequence[float]) -> list[float]:
    """Return the sum of the values for each of 256 ways to sign eight of them; missing ones are zeros."""
    sums = [0.0]
    for value in [*values, *[0.0] * (GROUP - len(values))]:
        sums = [total + signed for signed in (-value, value) for total in sums]
    return sums


def detectable_shift(error: float, samples: int, alpha: float = 1 - CONFIDENCE) -> float | None:
    """Return the smallest true difference of ratios that `paired_p` shows at this level with 80 % power, by its error.

    The error of few samples is too small more often than too large: by about 1 / samples in the end, as simulated.
    """
    if samples < 2:
        return None
    quantiles = student_quantile(alpha / CAUTION, samples - 1) + NormalDist().inv_cdf(POWER)
    return quantiles * error * (1 + 1 / samples)
