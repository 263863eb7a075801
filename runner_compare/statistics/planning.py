"""How many questions or samples a comparison needs, from what two runs have shown of their
disagreement so far."""

from __future__ import annotations

import math
from functools import lru_cache, partial

from runner_compare.statistics.margins import fewest, likely_counts
from runner_compare.statistics.ratios import MIN_TEXTS, detectable_shift
from runner_compare.statistics.stats import ALPHA, POWER, detectable_difference

SPREAD_QUANTILE = 2.6  # of the interval of a standard error
MIN_UNITS_PLANNED = 80
FINEST_DIFFERENCE = 5e-5  # twenty times finer than what is shown
MANY_DISCORDANT = 300  # pairs


def can_plan_from(units: float) -> bool:
    """Whether so many families of questions, or texts, say enough about how they differ to plan a
    number from them.

    Unequal families count as fewer, and texts of several tasks by the degrees of freedom of their
    mean. With fewer, a plan takes the differences that it has not seen for small, and too often
    decides nothing (cluster_null.py, bench/compare/pool_texts_null.py).
    """
    return units >= MIN_UNITS_PLANNED


def spread_factors(tails: float, samples: int, most_tails: float) -> tuple[float, float | None]:
    """Return the ends of an interval of the true standard error, as factors on the observed one.

    Bonett's interval, from the kurtosis `tails` of so many samples, at 99 %: of heavy tails the kurtosis is
    underestimated, and then it covers 95 % (bench/compare/planning_null.py). Beyond `most_tails` the upper end is
    unknown (None).
    """
    correction = samples / (samples - SPREAD_QUANTILE)
    error = math.sqrt(max(0.0, tails - (samples - 3) / samples) / (samples - 1))
    low, high = (
        math.sqrt(correction * math.exp(sign * SPREAD_QUANTILE * correction * error)) for sign in (-1, 1)
    )
    return low, high if tails <= most_tails else None


def expected_disagreement(discordant: float, n: float) -> float:
    """Return the share of further questions that only one of two runs will solve, as far as n
    questions tell.

    Of questions in families, or with several answers each, both counts are in the independent pairs
    they are worth.

    It is the mean of Jeffreys' posterior. The observed share itself plans too few questions after a
    small sample: of 20 questions with no disagreement it would follow that there will never be any
    (bench/compare/margin_null.py).
    """
    assert 0 <= discordant <= n
    return (discordant + 0.5) / (n + 1)


def questions_to_detect(
    noise_rate: float, difference: float, alpha: float = ALPHA, power: float = POWER
) -> int | None:
    """Return how many paired questions detect a true difference with this power; None if ten
    million are not enough.

    `noise_rate` is the share of questions that only one of two equal runs solves. The difference
    comes on top of it; if it takes the place of noise, the power is higher.
    """
    assert 0 <= noise_rate <= 1
    assert 0 < difference <= 1
    return fewest(partial(detection_power, noise_rate=noise_rate, difference=difference, alpha=alpha), power)


@lru_cache(maxsize=1024)
def detection_power(n: int, noise_rate: float, difference: float, alpha: float = ALPHA) -> float:
    """Return the exact probability that McNemar's exact test finds a true difference, in its
    direction."""
    import numpy as np
    from scipy.special import bdtr, bdtrik

    rate = min(1.0, noise_rate + difference)
    discordant, chances = likely_counts(n, rate)
    # The most pairs on the losing side with which the test still rejects; -1 if even none is too
    # many.
    most = np.nan_to_num(np.floor(bdtrik(alpha / 2, discordant, 0.5))).clip(0)
    most += 2 * bdtr(np.minimum(most + 1, discordant), discordant, 0.5) < alpha
    most -= 2 * bdtr(most, discordant, 0.5) >= alpha
    other_way = (rate - difference) / (2 * rate)
    rejected = np.where(most >= 0, bdtr(most.clip(0), discordant, other_way), 0.0)
    return float(chances @ rejected)


@lru_cache(maxsize=1024)
def smallest_detectable(n: int, noise_rate: float, alpha: float = ALPHA) -> float | None:
    """Return the smallest true paired difference that n questions detect with 80 % power; None if n
    detects none.

    It is exact where few pairs are discordant. Where they are many, Connor's formula is exact to 1
    %, and faster.
    """
    by_formula = detectable_difference(n, noise_rate, alpha)
    if by_formula is not None and n * (noise_rate + by_formula) > MANY_DISCORDANT:
        return by_formula
    low, high = 0.0, 1.0
    if n == 0 or detection_power(n, noise_rate, high, alpha) < POWER:
        return None
    while high - low > FINEST_DIFFERENCE:
        middle = (low + high) / 2
        low, high = (middle, high) if detection_power(n, noise_rate, middle, alpha) < POWER else (low, middle)
    return high


def samples_to_detect(
    error: float,
    samples: int,
    shift: float,
    alpha: float = ALPHA,
    power: float = POWER,
    bend: float = 0.0,
    tails: float = 3.0,
    upward: bool | None = None,
) -> int | None:
    """Return how many samples detect a difference of likelihoods; None if ten million are not
    enough.

    As many decide about a margin of this size, if neither run is better: the test then has to
    exclude the margin, which is below (`upward`). `error` is the standard error over the samples so
    far, `bend` their skewness over the root of their number; both fall with the root of that
    number. `tails` is their kurtosis.
    """
    assert shift > 0
    if samples < 2 or not math.isfinite(error):
        return None

    def shows(n: int) -> float:
        smaller = math.sqrt(samples / n)
        detectable = detectable_shift(
            error * smaller, n, alpha, power, bend * smaller, tails, samples, upward
        )
        return 1.0 if detectable is not None and detectable <= shift else 0.0

    needed = fewest(shows, 1.0)
    return None if needed is None else max(MIN_TEXTS, needed)
