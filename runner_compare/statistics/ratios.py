"""The statistics of ratios of sums: nats per token over samples of unequal length, and paired
differences of them.

The tokens of one text are not independent, so the sample is the unit: a ratio is the sum of one
number over all samples, divided by the sum of another, and its error comes from how far the samples
are from that ratio.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from itertools import product
from random import Random
from statistics import NormalDist

from runner_compare.statistics.stats import CONFIDENCE, POWER, student_p, student_quantile

FLIPS = 9_999  # random sign flips at most, for samples with too many possible ones
ENOUGH = (
    400  # drawing ends after so many sums that reach the observed one: p then has a relative error of 1/20
)
EXACT_FLIPS = 14  # up to so many samples all sign flips are counted
ROUNDING = 1e-12  # as a share of the largest sum: closer sums count as equal
SIGNS_AT_ONCE = 100_000  # so many are drawn together: they fit the cache
CAUTION = (
    2.0  # factor on p: by itself, either test calls too many equal pairs with skewed differences different
)
# samples, which show too little of a heavy tail (bench/compare/likelihood_null.py)
CAUTION_BELOW = {80: 4.0, 200: 3.0}
# factor on the caution where each end of an interval has to hold by itself; larger for few texts,
# of which a heavy tail (lognormal, sigma 1.5) shows too little (bench/compare/gates_null.py)
EACH_END = 2.0
EACH_END_BELOW = {80: 4.0, 200: 3.0}
MIN_TEXTS = (
    50  # of fewer, neither test keeps its level if differences are skewed (bench/compare/likelihood_null.py)
)


def cluster_sums(
    values: Sequence[float], clusters: Sequence[Hashable] | None = None
) -> tuple[list[float], list[float]]:
    """Return the sum of the values in each cluster and how many they are; None: each value is a
    cluster of its own."""
    sums: dict[Hashable, float] = {}
    sizes: dict[Hashable, float] = {}
    for cluster, value in zip(range(len(values)) if clusters is None else clusters, values, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + value
        sizes[cluster] = sizes.get(cluster, 0.0) + 1
    return list(sums.values()), list(sizes.values())


def jackknife_variance(sums: Sequence[float], sizes: Sequence[float]) -> float:
    """Return the variance of the mean of all values, from the means without one of the clusters; 0
    for a single one."""
    count, total, n = len(sums), math.fsum(sums), math.fsum(sizes)
    if count < 2:
        return 0.0
    left_out = [(total - top) / (n - size) for top, size in zip(sums, sizes, strict=True)]
    middle = math.fsum(left_out) / count
    return (count - 1) / count * math.fsum((share - middle) ** 2 for share in left_out)


def equal_clusters(sizes: Sequence[float]) -> float:
    """Return how many clusters of equal size are worth as much as these."""
    return math.fsum(sizes) ** 2 / math.fsum(size * size for size in sizes)


def ratio(tops: Sequence[float], bottoms: Sequence[float]) -> float:
    """Return the sum of the tops over the sum of the bottoms."""
    return math.fsum(tops) / math.fsum(bottoms)


def ratio_error(tops: Sequence[float], bottoms: Sequence[float]) -> float:
    """Return the standard error of such a ratio over samples, by linearisation; infinity for fewer
    than two samples."""
    n, centre = len(tops), ratio(tops, bottoms)
    if n < 2:
        return math.inf
    squares = math.fsum((top - centre * bottom) ** 2 for top, bottom in zip(tops, bottoms, strict=True))
    return math.sqrt(n / (n - 1) * squares) / math.fsum(bottoms)


def ratio_interval(
    tops: Sequence[float], bottoms: Sequence[float], least: float = -math.inf, most: float = math.inf
) -> tuple[float, float] | None:
    """Return the 95 % interval of such a ratio within its possible range; None for fewer than
    MIN_TEXTS samples, and where a sum is infinite.

    A gate passes by one end, and all the error of skewed samples is at one end. So the caution is
    that of `paired_interval` times `one_end_caution` (bench/compare/gates_null.py).
    """
    n = len(tops)
    if n < MIN_TEXTS or not all(map(math.isfinite, tops)):
        return None
    bend = skewness(tops, bottoms) / math.sqrt(n)
    low, high = cautious_interval(
        ratio(tops, bottoms), ratio_error(tops, bottoms), bend, n - 1, factor=one_end_caution(n)
    )
    return max(low, least), min(high, most)


def sign_flip_p(differences: Sequence[float], flips: int = FLIPS, seed: int = 0) -> float:
    """Return the two-sided p of paired differences by flipping their signs: if both runs are equal,
    signs are random.

    The statistic is the sum of the differences. If each is a sum over a sample's tokens, the
    statistic is the difference of the ratios times the number of tokens, which both sides share:
    samples count by their length, and no denominator changes. Divided by the root of the sum of
    squares, which no flip changes either, it is the studentized difference: so with many samples
    the test keeps its level even if differences are skewed. With few samples all flips are counted;
    otherwise they are drawn with a fixed seed, so the result is the same each time and never below
    1 / (flips + 1). Drawing ends early if p is clearly large; p is then the share of sums that
    reach the observed one (Besag and Clifford, 1991).
    """
    nonzero = [difference for difference in differences if difference]
    observed = abs(math.fsum(nonzero)) - ROUNDING * math.fsum(map(abs, nonzero))
    if not nonzero:
        return 1.0
    if len(nonzero) <= EXACT_FLIPS:
        sums = [
            abs(sum(signed)) for signed in product(*((-difference, difference) for difference in nonzero))
        ]
        return sum(total >= observed for total in sums) / len(sums)
    import numpy as np

    values, draw = np.array(nonzero), Random(seed).randbytes
    n, beyond = len(values), 0
    at_once = max(1, SIGNS_AT_ONCE // n)
    for begin in range(0, flips, at_once):
        drawn = [draw(-(-n // 8)) for _ in range(begin, min(flips, begin + at_once))]
        bits = np.frombuffer(b"".join(drawn), np.uint8).reshape(len(drawn), -1)
        signs = np.unpackbits(bits, axis=1, count=n, bitorder="little") * 2.0 - 1
        reached = np.flatnonzero(np.abs(signs @ values) >= observed)
        if beyond + len(reached) >= ENOUGH:
            return ENOUGH / (begin + int(reached[ENOUGH - beyond - 1]) + 1)
        beyond += len(reached)
    return (1 + beyond) / (1 + flips)


def skewness(tops: Sequence[float], bottoms: Sequence[float]) -> float:
    """Return the skewness of the distances of the samples from the ratio; 0 if there are none."""
    return _standardized_moment(tops, bottoms, 3)


def kurtosis(tops: Sequence[float], bottoms: Sequence[float]) -> float:
    """Return the kurtosis of the distances of the samples from the ratio: 3 if they are normal."""
    return _standardized_moment(tops, bottoms, 4)


def _standardized_moment(tops: Sequence[float], bottoms: Sequence[float], power: int) -> float:
    n, centre = len(tops), ratio(tops, bottoms)
    distances = [top - centre * bottom for top, bottom in zip(tops, bottoms, strict=True)]
    spread = math.fsum(distance**2 for distance in distances) / n
    return (
        math.fsum(distance**power for distance in distances) / n / spread ** (power / 2)
        if spread > 0
        else 0.0
    )


def unskewed(t: float, bend: float) -> float:
    """Return Hall's transformation of a studentized mean, which removes the skewness that samples
    give it.

    `bend` is the skewness over the root of the number of samples. The cubic polynomial of Hall
    (Journal of the Royal Statistical Society B 54, 1992) is t + bend (t² / 3 + 1 / 6) + bend² t³ /
    27. It increases with t.
    """
    return t + bend * (t * t / 3 + 1 / 6) + bend * bend * t**3 / 27


def skewed_again(bound: float, bend: float) -> float:
    """Return the studentized mean with this transformation: the inverse of `unskewed`."""
    return 3 / bend * (math.cbrt(1 + bend * (bound - bend / 6)) - 1) if abs(bend) > 1e-9 else bound


def caution(samples: float) -> float:
    """Return the factor on p for so many samples."""
    return next((factor for fewer_than, factor in CAUTION_BELOW.items() if samples < fewer_than), CAUTION)


def one_end_caution(samples: float) -> float:
    """Return the factor on p for so many samples, where one end of an interval decides."""
    factor = next((factor for fewer_than, factor in EACH_END_BELOW.items() if samples < fewer_than), EACH_END)
    return factor * caution(samples)


def paired_p(differences: Sequence[float], sizes: Sequence[float], factor: float | None = None) -> float:
    """Return a cautious p for the equality of two runs over the same samples."""
    n, bend = len(differences), skewness(differences, sizes) / math.sqrt(len(differences))
    return cautious_p(
        differences, ratio(differences, sizes), ratio_error(differences, sizes), bend, n - 1, factor
    )


def cautious_p(
    differences: Sequence[float],
    centre: float,
    error: float,
    bend: float,
    freedom: int,
    factor: float | None = None,
) -> float:
    """Return the largest p of sign flips, of Hall's test, and of Student's for a centre, times the
    caution.

    Flips are exact if differences are symmetric. If a few samples differ strongly in one direction,
    they call too many equal pairs different. Hall's test removes the observed skewness, which few
    samples understate. The two are wrong about different pairs: from MIN_TEXTS samples on, that
    many times the larger p keeps the level, also of lognormal differences (likelihood_null.py).
    What no sample shows is beyond any of them: a kind of text rarer than about four in n. Student's
    test is that of the interval, which would otherwise include 0 beside some findings.
    """
    factor = factor or caution(freedom + 1)
    by_flips = factor * sign_flip_p(differences)
    if by_flips >= 1 or error == 0:
        return min(1.0, by_flips)
    t = centre / error
    return min(1.0, max(by_flips, factor * student_p(min(abs(t), abs(unskewed(t, bend))), freedom)))


def paired_interval(
    differences: Sequence[float], sizes: Sequence[float], alpha: float = 1 - CONFIDENCE
) -> tuple[float, float]:
    """Return a cautious interval of the ratio, of 95 % unless another level is given."""
    n, error = len(differences), ratio_error(differences, sizes)
    if math.isinf(error):
        return -math.inf, math.inf
    return cautious_interval(
        ratio(differences, sizes), error, skewness(differences, sizes) / math.sqrt(n), n - 1, alpha
    )


def cautious_interval(
    centre: float,
    error: float,
    bend: float,
    freedom: int,
    alpha: float = 1 - CONFIDENCE,
    factor: float | None = None,
) -> tuple[float, float]:
    """Return a cautious interval: Student's and Hall's together, each at the level of
    `cautious_p`."""
    bound = student_quantile(alpha / (factor or caution(freedom + 1)), freedom)
    # by which the estimate may exceed the truth, in standard errors
    above = max(bound, skewed_again(bound, bend))
    below = max(bound, -skewed_again(-bound, bend))
    return centre - above * error, centre + below * error


def detectable_shift(
    error: float,
    samples: int,
    alpha: float = 1 - CONFIDENCE,
    power: float = POWER,
    bend: float = 0.0,
    tails: float = 3.0,
    seen: int | None = None,
    upward: bool | None = None,
) -> float | None:
    """Return the smallest true difference of ratios that `paired_p` detects at this level with this
    power.

    `error` is its standard error, which few samples underestimate: by about 1 / samples in
    simulations. `bend` is the skewness over the root of the number of samples, `tails` the
    kurtosis. If the error was estimated from so many `seen` samples, and others are tested, its own
    error costs power, too. `upward`: only a difference above 0 is of interest; None: the direction
    that is harder to detect, which is the one opposite to the skewness.
    """
    if samples < 2:
        return None
    if upward is None:
        bend = -abs(bend)
    elif not upward:
        bend = -bend
    bound = student_quantile(alpha / caution(samples), samples - 1)
    bound = max(bound, skewed_again(bound, bend))
    # With skewed samples the estimated error depends on the estimate: if one is too small, the
    # other is too large.
    slope = max(0.5, 1 - bound * bend / 2)
    z = NormalDist().inv_cdf(power)
    of_error = bound**2 * max(0.0, tails - 1 - bend**2 * samples) / (4 * samples)
    # the variance of the logarithm of the error
    unknown = max(0.0, tails - 1) / (4 * seen) if seen else 0.0
    errors = bound + z * math.sqrt(slope**2 + of_error + unknown * (bound + z) ** 2)
    return errors * error * (1 + 1 / samples + 2 * unknown)


def detectable_loss(error: float, samples: int, loss: float, alpha: float, power: float = POWER) -> float:
    """Return the smallest true difference that is detected if a few samples have all of it, each
    about so large.

    Such samples add to the spread: with a difference of d, the variance of the mean grows by (loss
    · d - d²) / samples. They also make the differences skewed in the direction in which Hall's test
    asks for no more than Student's.
    """
    errors = student_quantile(alpha / caution(samples), samples - 1) + NormalDist().inv_cdf(power)
    own, square = errors * error * (1 + 1 / samples), errors * errors / samples
    half = square * loss / 2  # of d² = own² + square (loss · d - d²)
    return (half + math.sqrt(half * half + (1 + square) * own * own)) / (1 + square)
