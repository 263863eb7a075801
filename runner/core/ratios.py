"""The statistics of ratios of sums: nats per token over samples of unequal length, and paired differences of them.

The tokens of one text are not independent, so the sample is the unit: a ratio is the sum of one number over all
samples, divided by the sum of another, and its error comes from how far the samples are from that ratio. Pure Python.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from operator import getitem
from random import Random
from statistics import NormalDist

from runner.core.stats import CONFIDENCE, POWER, student_p, student_quantile

FLIPS = 9_999  # random sign flips at most, for samples with too many possible ones
ENOUGH = 400  # drawing ends after so many sums that reach the observed one: p then has a relative error of 1/20
EXACT_FLIPS = 14  # up to so many samples all sign flips are counted
ROUNDING = 1e-12  # as a share of the largest sum: closer sums count as equal
GROUP = 8  # samples whose signed sums share one table
CAUTION = 2.0  # factor on p: by itself, either test calls too many equal pairs with skewed differences different
MIN_TEXTS = 50  # of fewer, neither test keeps its level if differences are skewed (bench/likelihood_null.py)


def ratio(tops: Sequence[float], bottoms: Sequence[float]) -> float:
    """Return the sum of the tops over the sum of the bottoms."""
    return math.fsum(tops) / math.fsum(bottoms)


def ratio_error(tops: Sequence[float], bottoms: Sequence[float]) -> float:
    """Return the standard error of such a ratio over samples, by linearisation; infinity for fewer than two samples."""
    n, centre = len(tops), ratio(tops, bottoms)
    if n < 2:
        return math.inf
    squares = math.fsum((top - centre * bottom) ** 2 for top, bottom in zip(tops, bottoms, strict=True))
    return math.sqrt(n / (n - 1) * squares) / math.fsum(bottoms)


def ratio_interval(tops: Sequence[float], bottoms: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of such a ratio, by Student's t over the samples; infinite for a single sample."""
    centre, error = ratio(tops, bottoms), ratio_error(tops, bottoms)
    if math.isinf(error):
        return -math.inf, math.inf
    half = student_quantile(1 - CONFIDENCE, len(tops) - 1) * error
    return centre - half, centre + half


def sign_flip_p(differences: Sequence[float], flips: int = FLIPS, seed: int = 0) -> float:
    """Return the two-sided p of paired differences by flipping their signs: if both runs are equal, signs are random.

    The statistic is the sum of the differences. If each is a sum over a sample's tokens, the statistic is the
    difference of the ratios times the number of tokens, which both sides share: samples count by their length, and no
    denominator changes. Divided by the root of the sum of squares, which no flip changes either, it is the studentized
    difference: so with many samples the test keeps its level even if differences are skewed. With few samples all
    flips are counted; otherwise they are drawn with a fixed seed, so the result is the same each time and never below
    1 / (flips + 1). Drawing ends early if p is clearly large; p is then the share of sums that reach the observed one
    (Besag and Clifford, 1991).
    """
    nonzero = [difference for difference in differences if difference]
    observed = abs(math.fsum(nonzero)) - ROUNDING * math.fsum(map(abs, nonzero))
    if not nonzero:
        return 1.0
    if len(nonzero) <= EXACT_FLIPS:
        sums = [abs(sum(signed)) for signed in product(*((-one, one) for one in nonzero))]
        return sum(one >= observed for one in sums) / len(sums)
    tables = [_signed_sums(nonzero[at : at + GROUP]) for at in range(0, len(nonzero), GROUP)]
    draw = Random(seed).randbytes
    beyond = 0
    for drawn in range(1, flips + 1):
        beyond += abs(sum(map(getitem, tables, draw(len(tables))))) >= observed
        if beyond == ENOUGH:
            return beyond / drawn
    return (1 + beyond) / (1 + flips)


def skewness(tops: Sequence[float], bottoms: Sequence[float]) -> float:
    """Return the skewness of the distances of the samples from the ratio; 0 if there are none."""
    n, centre = len(tops), ratio(tops, bottoms)
    distances = [top - centre * bottom for top, bottom in zip(tops, bottoms, strict=True)]
    spread = math.fsum(one**2 for one in distances) / n
    return math.fsum(one**3 for one in distances) / n / spread**1.5 if spread > 0 else 0.0


def unskewed(t: float, bend: float) -> float:
    """Return Hall's transformation of a studentized mean, which removes the skewness that samples give it.

    `bend` is the skewness over the root of the number of samples. The cubic polynomial of Hall (Journal of the Royal
    Statistical Society B 54, 1992) is t + bend (t² / 3 + 1 / 6) + bend² t³ / 27. It increases with t.
    """
    return t + bend * (t * t / 3 + 1 / 6) + bend * bend * t**3 / 27


def skewed_again(bound: float, bend: float) -> float:
    """Return the studentized mean with this transformation: the inverse of `unskewed`."""
    return 3 / bend * (math.cbrt(1 + bend * (bound - bend / 6)) - 1) if abs(bend) > 1e-9 else bound


def paired_p(differences: Sequence[float], sizes: Sequence[float]) -> float:
    """Return a cautious p for the equality of two runs: twice the larger p of sign flips and of Hall's test.

    Flips are exact if differences are symmetric. If a few samples differ strongly in one direction, they call too many
    equal pairs different. Hall's test removes the observed skewness, which few samples understate. The two are wrong
    about different pairs: from MIN_TEXTS samples on, twice the larger p keeps the level (bench/likelihood_null.py).
    """
    error, n = ratio_error(differences, sizes), len(differences)
    by_flips = CAUTION * sign_flip_p(differences)
    if by_flips >= 1 or error == 0:
        return min(1.0, by_flips)
    t = unskewed(ratio(differences, sizes) / error, skewness(differences, sizes) / math.sqrt(n))
    return min(1.0, max(by_flips, CAUTION * student_p(t, n - 1)))


def paired_interval(differences: Sequence[float], sizes: Sequence[float]) -> tuple[float, float]:
    """Return a cautious 95 % interval of the ratio: Student's and Hall's together, each at the level of `paired_p`."""
    centre, error, n = ratio(differences, sizes), ratio_error(differences, sizes), len(differences)
    if math.isinf(error):
        return -math.inf, math.inf
    bound, bend = student_quantile((1 - CONFIDENCE) / CAUTION, n - 1), skewness(differences, sizes) / math.sqrt(n)
    above = max(bound, skewed_again(bound, bend))  # by which the estimate may exceed the truth, in standard errors
    below = max(bound, -skewed_again(-bound, bend))
    return centre - above * error, centre + below * error


def _signed_sums(values: Sequence[float]) -> list[float]:
    """Return the sum of the values for each of 256 ways to sign eight of them; missing ones are zeros."""
    sums = [0.0]
    for value in [*values, *[0.0] * (GROUP - len(values))]:
        sums = [total + signed for signed in (-value, value) for total in sums]
    return sums


def detectable_shift(
    error: float, samples: int, alpha: float = 1 - CONFIDENCE, power: float = POWER, bend: float = 0.0
) -> float | None:
    """Return the smallest true difference of ratios that `paired_p` detects at this level with this power.

    `error` is its standard error, which few samples underestimate: by about 1 / samples in simulations. `bend` is the
    skewness over the root of the number of samples: Hall's test asks for more in one direction, and here in both.
    """
    if samples < 2:
        return None
    bound = student_quantile(alpha / CAUTION, samples - 1)
    bound = max(bound, skewed_again(bound, abs(bend)), -skewed_again(-bound, abs(bend)))
    return (bound + NormalDist().inv_cdf(power)) * error * (1 + 1 / samples)
