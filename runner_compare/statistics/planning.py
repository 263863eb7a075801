"""Computes sample sizes and power of comparisons from the observed rate of disagreement."""

from __future__ import annotations

import math
from functools import lru_cache, partial

from runner_compare.statistics.margins import compute_success_count_distribution, find_smallest_sample_size
from runner_compare.statistics.ratios import MIN_TEXTS, find_detectable_ratio_difference
from runner_compare.statistics.stats import ALPHA, POWER, find_detectable_paired_difference

SPREAD_QUANTILE = 2.6  # of the interval of a standard error
MIN_UNITS_PLANNED = 80
FINEST_DIFFERENCE = 5e-5  # twenty times finer than what is shown
MANY_DISCORDANT = 300  # pairs


def has_enough_units_to_plan(num_units: float) -> bool:
    """Whether there are enough clusters or documents to estimate a sample size.

    Unequal clusters count as fewer, and texts of several tasks by the degrees of freedom of
    their mean. With fewer, a plan takes unobserved differences for small, and too often decides
    nothing (cluster_null.py, bench/compare/pool_texts_null.py).
    """
    return num_units >= MIN_UNITS_PLANNED


def compute_standard_error_bound_factors(
    kurtosis: float, samples: int, max_kurtosis: float
) -> tuple[float, float | None]:
    """Return two factors that turn an observed standard error into bounds of the true standard error.

    It is Bonett's interval, from the kurtosis of the samples, at 99 %: the kurtosis of heavy
    tails is underestimated, and then it covers 95 % (bench/compare/planning_null.py). Beyond
    `max_kurtosis` the upper end is unknown (None).
    """
    correction = samples / (samples - SPREAD_QUANTILE)
    error = math.sqrt(max(0.0, kurtosis - (samples - 3) / samples) / (samples - 1))
    low, high = (
        math.sqrt(correction * math.exp(sign * SPREAD_QUANTILE * correction * error)) for sign in (-1, 1)
    )
    return low, high if kurtosis <= max_kurtosis else None


def estimate_disagreement_rate(num_discordant: float, n: float) -> float:
    """Return the expected fraction of new questions on which the verdicts of two runs differ.

    For clustered questions, or several answers each, both counts are in equivalent independent
    pairs. It is the mean of Jeffreys' posterior. The observed fraction plans too few questions
    after a small sample: 20 questions without disagreement do not mean that there will never be
    any (bench/compare/margin_null.py).
    """
    assert 0 <= num_discordant <= n
    return (num_discordant + 0.5) / (n + 1)


def plan_questions_to_detect(
    noise_rate: float, difference: float, alpha: float = ALPHA, power: float = POWER
) -> int | None:
    """Return the number of paired questions needed to detect a true difference.

    `noise_rate` is the fraction of questions that only one of two equal runs solves. The
    difference is added to it; if it replaces noise, the power is higher. Returns None if more
    than ten million are needed.
    """
    assert 0 <= noise_rate <= 1
    assert 0 < difference <= 1
    return find_smallest_sample_size(
        partial(compute_detection_power, noise_rate=noise_rate, difference=difference, alpha=alpha), power
    )


@lru_cache(maxsize=1024)
def compute_detection_power(n: int, noise_rate: float, difference: float, alpha: float = ALPHA) -> float:
    """Return the power of McNemar's exact test to detect a difference with the correct sign."""
    import numpy as np
    from scipy.special import bdtr, bdtrik

    rate = min(1.0, noise_rate + difference)
    discordant, chances = compute_success_count_distribution(n, rate)
    # The most pairs on the losing side with which the test still rejects; -1 if even none is too
    # many.
    most = np.nan_to_num(np.floor(bdtrik(alpha / 2, discordant, 0.5))).clip(0)
    most += 2 * bdtr(np.minimum(most + 1, discordant), discordant, 0.5) < alpha
    most -= 2 * bdtr(most, discordant, 0.5) >= alpha
    other_way = (rate - difference) / (2 * rate)
    rejected = np.where(most >= 0, bdtr(most.clip(0), discordant, other_way), 0.0)
    return float(chances @ rejected)


@lru_cache(maxsize=1024)
def find_smallest_detectable_difference(n: int, noise_rate: float, alpha: float = ALPHA) -> float | None:
    """Return the smallest true difference that n paired questions detect with 80 % power, or None.

    It is exact where few pairs are discordant. For many, Connor's formula is accurate to 1 %,
    and faster.
    """
    by_formula = find_detectable_paired_difference(n, noise_rate, alpha)
    if by_formula is not None and n * (noise_rate + by_formula) > MANY_DISCORDANT:
        return by_formula
    low, high = 0.0, 1.0
    if n == 0 or compute_detection_power(n, noise_rate, high, alpha) < POWER:
        return None
    while high - low > FINEST_DIFFERENCE:
        middle = (low + high) / 2
        low, high = (
            (middle, high) if compute_detection_power(n, noise_rate, middle, alpha) < POWER else (low, middle)
        )
    return high


def compute_samples_to_detect_shift(
    standard_error: float,
    samples: int,
    shift: float,
    alpha: float = ALPHA,
    power: float = POWER,
    scaled_skewness: float = 0.0,
    kurtosis: float = 3.0,
    is_upward: bool | None = None,
) -> int | None:
    """Return the number of samples needed to detect a difference in likelihood.

    Returns None if more than ten million are needed. As many samples decide about a margin of
    this size, if neither run is better: the test then has to exclude the margin, which is below
    (`is_upward`). `standard_error` is that over the observed samples, `scaled_skewness` their
    skewness over the root of their number; both fall with the root of that number.
    """
    assert shift > 0
    if samples < 2 or not math.isfinite(standard_error):
        return None

    def return_one_if_detectable(n: int) -> float:
        smaller = math.sqrt(samples / n)
        detectable = find_detectable_ratio_difference(
            standard_error * smaller, n, alpha, power, scaled_skewness * smaller, kurtosis, samples, is_upward
        )
        return 1.0 if detectable is not None and detectable <= shift else 0.0

    needed = find_smallest_sample_size(return_one_if_detectable, 1.0)
    return None if needed is None else max(MIN_TEXTS, needed)
