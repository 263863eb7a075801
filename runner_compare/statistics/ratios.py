"""Statistics of ratios of sums, e.g. nats per token over texts of unequal length, and of
paired differences.

The tokens of one text are not independent, so the sample is the unit: a ratio is the sum of
one number over all samples, divided by the sum of another, and its error comes from how far
the samples are from that ratio.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from itertools import product
from random import Random
from statistics import NormalDist

from runner_compare.statistics.stats import CONFIDENCE, POWER, compute_student_quantile, student_p_value

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


def sum_by_cluster(
    values: Sequence[float], clusters: Sequence[Hashable] | None = None
) -> tuple[list[float], list[float]]:
    """Return the sum and the number of values per cluster. Without clusters, each value is its own
    cluster.
    """
    sums: dict[Hashable, float] = {}
    sizes: dict[Hashable, float] = {}
    for cluster, value in zip(range(len(values)) if clusters is None else clusters, values, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + value
        sizes[cluster] = sizes.get(cluster, 0.0) + 1
    return list(sums.values()), list(sizes.values())


def compute_jackknife_variance(sums: Sequence[float], sizes: Sequence[float]) -> float:
    """Return the jackknife variance of the mean over clusters; 0 for a single cluster."""
    count, total, n = len(sums), math.fsum(sums), math.fsum(sizes)
    if count < 2:
        return 0.0
    left_out = [(total - top) / (n - size) for top, size in zip(sums, sizes, strict=True)]
    middle = math.fsum(left_out) / count
    return (count - 1) / count * math.fsum((share - middle) ** 2 for share in left_out)


def effective_num_clusters(sizes: Sequence[float]) -> float:
    """Return Kish's effective number of clusters, given the cluster sizes."""
    return math.fsum(sizes) ** 2 / math.fsum(size * size for size in sizes)


def ratio_of_sums(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    return math.fsum(numerators) / math.fsum(denominators)


def compute_ratio_standard_error(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Return the linearized standard error of a ratio of sums; infinity for fewer than two
    samples.
    """
    n, centre = len(numerators), ratio_of_sums(numerators, denominators)
    if n < 2:
        return math.inf
    squares = math.fsum(
        (top - centre * bottom) ** 2 for top, bottom in zip(numerators, denominators, strict=True)
    )
    return math.sqrt(n / (n - 1) * squares) / math.fsum(denominators)


def compute_ratio_interval(
    numerators: Sequence[float],
    denominators: Sequence[float],
    lower: float = -math.inf,
    upper: float = math.inf,
) -> tuple[float, float] | None:
    """Return the 95 % interval of a ratio of sums, clipped to [lower, upper].

    Returns None for fewer than MIN_TEXTS samples, and if a sum is infinite. A gate passes by
    one end, and all the error of skewed samples is at one end. So the caution is that of
    `compute_paired_ratio_interval` times that of one end (bench/compare/gates_null.py).
    """
    n = len(numerators)
    if n < MIN_TEXTS or not all(map(math.isfinite, numerators)):
        return None
    bend = skewness(numerators, denominators) / math.sqrt(n)
    low, high = compute_conservative_interval(
        ratio_of_sums(numerators, denominators),
        compute_ratio_standard_error(numerators, denominators),
        bend,
        n - 1,
        safety_factor=get_one_sided_p_value_factor(n),
    )
    return max(low, lower), min(high, upper)


def compute_sign_flip_p_value(differences: Sequence[float], max_flips: int = FLIPS, seed: int = 0) -> float:
    """Return the two-sided p-value of a sign-flip test of paired differences.

    If both runs are equal, signs are random. The statistic is the sum of the differences. If
    each is a sum over a sample's tokens, the statistic is the difference of the ratios times
    the number of tokens, which both sides share: samples count by their length, and no
    denominator changes. Divided by the root of the sum of squares, which no flip changes
    either, it is the studentized difference: so with many samples the test keeps its level even
    if differences are skewed. With few samples all flips are counted; otherwise they are drawn
    with a fixed seed, so the result is reproducible and never below 1 / (max_flips + 1).
    Drawing ends early if p is clearly large; p is then the fraction of sums that reach the
    observed one (Besag and Clifford, 1991).
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
    for begin in range(0, max_flips, at_once):
        drawn = [draw(-(-n // 8)) for _ in range(begin, min(max_flips, begin + at_once))]
        bits = np.frombuffer(b"".join(drawn), np.uint8).reshape(len(drawn), -1)
        signs = np.unpackbits(bits, axis=1, count=n, bitorder="little") * 2.0 - 1
        reached = np.flatnonzero(np.abs(signs @ values) >= observed)
        if beyond + len(reached) >= ENOUGH:
            return ENOUGH / (begin + int(reached[ENOUGH - beyond - 1]) + 1)
        beyond += len(reached)
    return (1 + beyond) / (1 + max_flips)


def skewness(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Return the skewness of the samples' residuals from the ratio of sums; 0 without spread."""
    return _compute_standardized_moment(numerators, denominators, 3)


def kurtosis(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Return the kurtosis of the samples' residuals from the ratio of sums: 3 if they are normal."""
    return _compute_standardized_moment(numerators, denominators, 4)


def _compute_standardized_moment(
    numerators: Sequence[float], denominators: Sequence[float], power: int
) -> float:
    n, centre = len(numerators), ratio_of_sums(numerators, denominators)
    distances = [top - centre * bottom for top, bottom in zip(numerators, denominators, strict=True)]
    spread = math.fsum(distance**2 for distance in distances) / n
    return (
        math.fsum(distance**power for distance in distances) / n / spread ** (power / 2)
        if spread > 0
        else 0.0
    )


def remove_skewness(t: float, scaled_skewness: float) -> float:
    """Apply Hall's transformation, which removes skewness, to a studentized mean.

    `scaled_skewness` is the skewness over the root of the number of samples. The cubic
    polynomial of Hall (Journal of the Royal Statistical Society B 54, 1992) is t + s (t² / 3 +
    1 / 6) + s² t³ / 27. It increases with t.
    """
    return t + scaled_skewness * (t * t / 3 + 1 / 6) + scaled_skewness * scaled_skewness * t**3 / 27


def restore_skewness(bound: float, scaled_skewness: float) -> float:
    """Invert Hall's transformation: convert a transformed bound to a studentized mean."""
    return (
        3 / scaled_skewness * (math.cbrt(1 + scaled_skewness * (bound - scaled_skewness / 6)) - 1)
        if abs(scaled_skewness) > 1e-9
        else bound
    )


def get_p_value_factor(num_samples: float) -> float:
    """Return the safety factor by which p-values are multiplied, which is larger for small samples."""
    return next((factor for fewer_than, factor in CAUTION_BELOW.items() if num_samples < fewer_than), CAUTION)


def get_one_sided_p_value_factor(num_samples: float) -> float:
    factor = next(
        (factor for fewer_than, factor in EACH_END_BELOW.items() if num_samples < fewer_than), EACH_END
    )
    return factor * get_p_value_factor(num_samples)


def compute_paired_p_value(
    differences: Sequence[float], sizes: Sequence[float], safety_factor: float | None = None
) -> float:
    n, bend = len(differences), skewness(differences, sizes) / math.sqrt(len(differences))
    return compute_conservative_p_value(
        differences,
        ratio_of_sums(differences, sizes),
        compute_ratio_standard_error(differences, sizes),
        bend,
        n - 1,
        safety_factor,
    )


def compute_conservative_p_value(
    differences: Sequence[float],
    estimate: float,
    standard_error: float,
    scaled_skewness: float,
    degrees_of_freedom: int,
    safety_factor: float | None = None,
) -> float:
    """Return the largest p-value of three tests, multiplied by a safety factor.

    The tests are sign flips, Hall's test and Student's t test.

    Flips are exact if differences are symmetric. If a few samples differ strongly in one
    direction, flips call too many equal pairs different. Hall's test removes the observed
    skewness, which few samples understate. The two are wrong about different pairs: from
    MIN_TEXTS samples on, the factor times the larger p-value keeps the level, also for
    lognormal differences (likelihood_null.py). None of them covers a kind of text rarer than
    about four in n, which no sample shows. Student's test is that of the interval, which would
    otherwise include 0 next to some findings.
    """
    safety_factor = safety_factor or get_p_value_factor(degrees_of_freedom + 1)
    by_flips = safety_factor * compute_sign_flip_p_value(differences)
    if by_flips >= 1 or standard_error == 0:
        return min(1.0, by_flips)
    t = estimate / standard_error
    return min(
        1.0,
        max(
            by_flips,
            safety_factor
            * student_p_value(min(abs(t), abs(remove_skewness(t, scaled_skewness))), degrees_of_freedom),
        ),
    )


def compute_paired_ratio_interval(
    differences: Sequence[float], sizes: Sequence[float], alpha: float = 1 - CONFIDENCE
) -> tuple[float, float]:
    n, error = len(differences), compute_ratio_standard_error(differences, sizes)
    if math.isinf(error):
        return -math.inf, math.inf
    return compute_conservative_interval(
        ratio_of_sums(differences, sizes), error, skewness(differences, sizes) / math.sqrt(n), n - 1, alpha
    )


def compute_conservative_interval(
    estimate: float,
    standard_error: float,
    scaled_skewness: float,
    degrees_of_freedom: int,
    alpha: float = 1 - CONFIDENCE,
    safety_factor: float | None = None,
) -> tuple[float, float]:
    """Return a conservative interval. Each end is the wider one of Student's and Hall's intervals."""
    bound = compute_student_quantile(
        alpha / (safety_factor or get_p_value_factor(degrees_of_freedom + 1)), degrees_of_freedom
    )
    # by which the estimate may exceed the truth, in standard errors
    above = max(bound, restore_skewness(bound, scaled_skewness))
    below = max(bound, -restore_skewness(-bound, scaled_skewness))
    return estimate - above * standard_error, estimate + below * standard_error


def find_detectable_ratio_difference(
    standard_error: float,
    samples: int,
    alpha: float = 1 - CONFIDENCE,
    power: float = POWER,
    scaled_skewness: float = 0.0,
    kurtosis: float = 3.0,
    observed_samples: int | None = None,
    is_upward: bool | None = None,
) -> float | None:
    """Return the smallest true difference between two ratios of sums that a test detects, or None.

    Few samples underestimate `standard_error`, by about 1 / samples in simulations.
    `scaled_skewness` is the skewness over the root of the number of samples. If the error was
    estimated from `observed_samples` and other samples are tested, the error of this estimate
    costs power, too. `is_upward`: only a difference above 0 is of interest; None: the direction
    that is harder to detect, which is the one opposite to the skewness.
    """
    if samples < 2:
        return None
    if is_upward is None:
        scaled_skewness = -abs(scaled_skewness)
    elif not is_upward:
        scaled_skewness = -scaled_skewness
    bound = compute_student_quantile(alpha / get_p_value_factor(samples), samples - 1)
    bound = max(bound, restore_skewness(bound, scaled_skewness))
    # With skewed samples the estimated error depends on the estimate: if one is too small, the
    # other is too large.
    slope = max(0.5, 1 - bound * scaled_skewness / 2)
    z = NormalDist().inv_cdf(power)
    of_error = bound**2 * max(0.0, kurtosis - 1 - scaled_skewness**2 * samples) / (4 * samples)
    # the variance of the logarithm of the error
    unknown = max(0.0, kurtosis - 1) / (4 * observed_samples) if observed_samples else 0.0
    errors = bound + z * math.sqrt(slope**2 + of_error + unknown * (bound + z) ** 2)
    return errors * standard_error * (1 + 1 / samples + 2 * unknown)


def find_detectable_concentrated_loss(
    standard_error: float, samples: int, loss: float, alpha: float, power: float = POWER
) -> float:
    """Return the smallest true difference that a test detects if only a few samples cause it.

    Each of these samples loses about `loss`. Such samples add to the spread: with a difference of
    d, the variance of the mean grows by (loss · d - d²) / samples. The samples also make the
    differences skewed in the direction in which Hall's test requires no more than Student's.
    """
    errors = compute_student_quantile(
        alpha / get_p_value_factor(samples), samples - 1
    ) + NormalDist().inv_cdf(power)
    own, square = errors * standard_error * (1 + 1 / samples), errors * errors / samples
    half = square * loss / 2  # of d² = own² + square (loss · d - d²)
    return (half + math.sqrt(half * half + (1 + square) * own * own)) / (1 + square)
