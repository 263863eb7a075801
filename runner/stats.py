"""The statistics behind a score and a comparison: intervals, paired tests, what a test could have shown.

Pure Python, because scipy takes a second to import and a score needs none of it; the tests check every
function against scipy. Proportions and differences are fractions (0.024, not 2.4 points).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist


def wilson_interval(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval for k successes in n; (0, 1) when nothing was counted."""
    assert 0 <= k <= n
    if n == 0:
        return 0.0, 1.0
    z = _two_sided_z(1 - confidence)
    rate, shrink = k / n, 1 + z * z / n
    centre = (rate + z * z / (2 * n)) / shrink
    half = z / shrink * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    # The ends are exact at k = 0 and k = n, where rounding would leave 1e-17 or 0.999….
    return (0.0 if k == 0 else centre - half), (1.0 if k == n else centre + half)


def mcnemar_exact(b: int, c: int) -> float:
    """Return the two-sided exact p of McNemar's test for b and c discordant pairs; 1 when there are none."""
    assert min(b, c) >= 0
    n = b + c
    tail = term = 1  # C(n, 0); whole numbers stay exact however many pairs there are
    for i in range(min(b, c)):
        term = term * (n - i) // (i + 1)
        tail += term
    p = 2 * tail / (1 << n)
    return min(1.0, max(p, math.ulp(0.0)))  # thousands of pairs can go below what a float holds: p is never 0


def holm(ps: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values, in the order given."""
    adjusted = [0.0] * len(ps)
    highest = 0.0
    for rank, position in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        highest = max(highest, min(1.0, ps[position] * (len(ps) - rank)))
        adjusted[position] = highest
    return adjusted


def paired_difference_interval(b: int, c: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Tango's score interval for the paired difference (b - c) / n; (-1, 1) when n is 0.

    b of n pairs succeeded only the first time, c only the second. Tango (Statistics in Medicine 17, 1998)
    holds its coverage for small n and few discordant pairs, where Wald's interval shrinks to nothing.
    """
    assert min(b, c, n - b - c) >= 0
    if n == 0:
        return -1.0, 1.0
    z = _two_sided_z(1 - confidence)
    estimate = (b - c) / n

    def score(difference: float) -> float:
        """Distance of the data from a true difference, in standard errors under that difference."""
        distance = (b - c) - n * difference
        linear = (2 * n - b + c) * difference - b - c
        constant = -c * difference * (1 - difference)
        only_second = (math.sqrt(max(0.0, linear * linear - 8 * n * constant)) - linear) / (4 * n)
        variance = n * (2 * only_second + difference * (1 - difference))
        if variance <= 0:  # only at -1, 1 and (without discordant pairs) at 0
            return math.copysign(math.inf, distance) if distance else 0.0
        return distance / math.sqrt(variance)

    low = -1.0 if c == n else _root(lambda difference: z - score(difference), -1.0, estimate)
    high = 1.0 if b == n else _root(lambda difference: -z - score(difference), estimate, 1.0)
    return low, high


def detectable_difference(n: int, discordant_rate: float, power: float = 0.8, alpha: float = 0.05) -> float | None:
    """Return the smallest true paired difference that n pairs show with this power; None when n shows none.

    Connor's formula (Biometrics 43, 1987), corrected for continuity as the exact test is the stricter one:
    n·d - 1 = z(alpha/2)·√(n·r) + z(power)·√(n·(r - d²)). The rate r of discordant pairs is the observed one,
    or d itself where d is larger: a difference of d needs at least that many discordant pairs.
    """
    assert 0 <= discordant_rate <= 1
    z_alpha, z_power = _two_sided_z(alpha), NormalDist().inv_cdf(power)

    def surplus(difference: float) -> float:
        rate = max(discordant_rate, difference)
        spread = z_power * math.sqrt(n * max(0.0, rate - difference * difference))
        return n * difference - 1 - z_alpha * math.sqrt(n * rate) - spread

    return None if surplus(1.0) < 0 else _root(surplus, 0.0, 1.0)


def _two_sided_z(alpha: float) -> float:
    """Return the normal quantile that leaves alpha / 2 above it."""
    return -NormalDist().inv_cdf(alpha / 2)


def _root(rising: Callable[[float], float], low: float, high: float) -> float:
    """Return where a rising function crosses zero between low and high, by halving."""
    for _ in range(60):  # 2 / 2^60 is below a float's resolution at 1
        middle = (low + high) / 2
        low, high = (low, middle) if rising(middle) >= 0 else (middle, high)
    return high
