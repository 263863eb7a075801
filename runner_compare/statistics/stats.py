"""Basic statistics of accuracies and comparisons: intervals, tests and detectable differences.

Functions of scipy are imported where they are needed: the import takes up to a second, and
the score of plain questions needs none. The tests check the rest against scipy, statsmodels
or its own definition. Proportions and differences are fractions (0.024, not 2.4 points).
Tests decide. Intervals show how large a difference may be: near the border an interval here
can exclude 0 although McNemar's or Fisher's exact test does not reject, and then and in the
reverse case effects.py moves the end, so that test and interval agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

CONFIDENCE, POWER = 0.95, 0.8  # of every interval, and of every detectable difference
ALPHA = 0.05  # the level of every decision
HALVINGS = 40  # of a range, to find the end of an interval in it
LEAST_P = (
    1e-12  # of a test that is inverted from intervals: at smaller levels, 1 minus the level is rounded to 1
)


def compute_wilson_interval(successes: float, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion (successes out of n); (0, 1) for n = 0."""
    assert 0 <= successes <= n
    if n == 0:
        return 0.0, 1.0
    z = normal_quantile(1 - confidence)
    rate, shrink = successes / n, 1 + z * z / n
    centre = (rate + z * z / (2 * n)) / shrink
    half = z / shrink * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    # The ends are exact at k = 0 and k = n, where rounding would leave 1e-17 or 0.999….
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)


def compute_clopper_pearson_interval(successes: float, n: float, alpha: float = ALPHA) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of a proportion (successes out of n); (0, 1) for n = 0.

    Each end alone is beyond the truth in at most alpha / 2, whatever the truth is. Wilson's
    interval does so only on average over truths: for 20 questions at a true 97.2 %, its upper
    end is too low in 10 %.
    """
    from scipy.special import betaincinv

    assert 0 <= successes <= n
    low = float(betaincinv(successes, n - successes + 1, alpha / 2)) if successes > 0 else 0.0
    high = float(betaincinv(successes + 1, n - successes, 1 - alpha / 2)) if successes < n else 1.0
    return low, high


def compute_exact_mcnemar_p_value(wins: int, losses: int) -> float:
    """Return the two-sided p-value of McNemar's exact test; 1 without discordant pairs."""
    from scipy.special import bdtr

    assert min(wins, losses) >= 0
    return _clip_p_value(2 * float(bdtr(min(wins, losses), wins + losses, 0.5)))


def holm_adjust(p_values: Sequence[float]) -> list[float]:
    return [p for (p,) in adjust_grouped_p_values([[p] for p in p_values])]


def adjust_grouped_p_values(groups: Sequence[Sequence[float]], num_families: int = 1) -> list[list[float]]:
    """Adjust p-values by the methods of Holm and Shaffer.

    In each group, at most one hypothesis is true.

    `num_families` families share one error, and this one has an equal part. A true difference
    is at most one of 0 and minus the margin: so a comparison counts once, for any number of its
    hypotheses, until all of them are rejected (Shaffer, Journal of the American Statistical
    Association 81, 1986).
    """
    adjusted = [[0.0] * len(group) for group in groups]
    waiting = [len(group) for group in groups]
    highest = 0.0
    for p, number, position in sorted(
        (p, i, j) for i, group in enumerate(groups) for j, p in enumerate(group)
    ):
        highest = max(highest, min(1.0, p * num_families * sum(map(bool, waiting))))
        adjusted[number][position] = highest
        waiting[number] -= 1
    return adjusted


def compute_paired_difference_interval(
    wins: int, losses: int, n: int, alpha: float = ALPHA
) -> tuple[float, float]:
    """Return the interval of a paired difference: all values that the test does not reject; (-1, 1)
    for n = 0.
    """
    assert min(wins, losses, n - wins - losses) >= 0
    if n == 0:
        return -1.0, 1.0
    return _compute_paired_difference_lower_bound(
        wins, losses, n, alpha
    ), -_compute_paired_difference_lower_bound(losses, wins, n, alpha)


def _compute_paired_difference_lower_bound(wins: int, losses: int, n: int, alpha: float) -> float:
    from scipy.special import bdtr, betaincinv

    low, _ = compute_tango_interval(wins, losses, n, alpha, continuity_correction(wins, losses, n))
    # wins are too few for it: Clopper and Pearson's lower end
    if low > 0 and bdtr(n - wins, n, 1 - low) > alpha / 2:
        return float(betaincinv(wins, n - wins + 1, alpha / 2))
    # losses are too few for it: minus their upper end
    if -1 < low < 0 and bdtr(losses, n, -low) < alpha / 2:
        return float(betaincinv(n - losses, losses + 1, alpha / 2)) - 1
    return low


def compute_paired_difference_p_value(wins: int, losses: int, n: int, null_difference: float) -> float:
    """Return the two-sided p-value against a null value of the paired difference.

    A difference of 0 has its own test, McNemar's. This is Tango's score test (Statistics in
    Medicine 17, 1998) with a continuity correction, since counts move in steps: without it, up
    to 6.7 % of such tests at 5 % are wrong. Where nearly all discordant pairs are of one kind,
    they are few and skewed, and the exact binomial test of that kind is used, too: a true
    difference of -m needs at least m of all pairs that succeeded only the second time. If they
    are too few, -m is excluded from above; it is not excluded from below unless they are too
    many. With McNemar's test, errors are within the level in all tables of up to 200 pairs, at
    any disagreement (bench/compare/paired_levels.py).
    """
    from scipy.special import bdtr

    if n == 0 or (wins - losses) / n == null_difference:
        return 1.0
    if (wins - losses) / n < null_difference:
        wins, losses, null_difference = losses, wins, -null_difference
    p = min(
        1.0,
        2
        * NormalDist().cdf(
            -compute_tango_score(wins, losses, n, null_difference, continuity_correction(wins, losses, n))
        ),
    )
    if null_difference < 0:
        return min(p, 2 * float(bdtr(losses, n, -null_difference)))
    return max(p, min(1.0, 2 * float(bdtr(n - wins, n, 1 - null_difference))))


def continuity_correction(wins: float, losses: float, n: float) -> float:
    """Return the continuity correction of wins minus losses: half of their step size.

    The step is 1 where most pairs are ties, and 2 without ties.
    """
    return (1 + (wins + losses) / n) / 2


def compute_tango_interval(
    wins: float, losses: float, n: float, alpha: float = ALPHA, correction: float = 0.0
) -> tuple[float, float]:
    """Return Tango's score interval of the paired difference. The counts may be fractional.

    It keeps its coverage for small n and few discordant pairs, where Wald's interval shrinks to
    nothing. The continuity `correction` is in pairs.
    """
    if n == 0:
        return -1.0, 1.0
    z, estimate = normal_quantile(alpha), (wins - losses) / n

    def is_compatible(difference: float) -> bool:
        return abs(compute_tango_score(wins, losses, n, difference, correction)) <= z

    return bisect_to_interval_end(is_compatible, estimate, -1.0), bisect_to_interval_end(
        is_compatible, estimate, 1.0
    )


def compute_tango_score(
    wins: float, losses: float, n: float, null_difference: float, correction: float = 0.0
) -> float:
    """Return Tango's score: the distance from the null difference in standard errors."""
    distance = (wins - losses) - n * null_difference
    distance = math.copysign(max(0.0, abs(distance) - correction), distance)
    linear = (2 * n - wins + losses) * null_difference - wins - losses
    constant = -losses * null_difference * (1 - null_difference)
    only_second = (math.sqrt(max(0.0, linear * linear - 8 * n * constant)) - linear) / (4 * n)
    variance = n * (2 * only_second + null_difference * (1 - null_difference))
    if variance <= 0:  # only at -1, 1 and (without discordant pairs) at 0
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def compute_unpaired_difference_interval(
    successes_1: int, n_1: int, successes_2: int, n_2: int, alpha: float = ALPHA
) -> tuple[float, float]:
    """Return the confidence interval of the difference between two independent proportions.

    Newcombe's method (method 10, Statistics in Medicine 17, 1998) combines the intervals of two
    proportions, in closed form and never beyond -1 or 1. Clopper and Pearson's ends replace
    Wilson's: with those it misses in up to 3.9 % at one end where proportions differ by up to
    20 points, and with these in at most 2.5 % (bench/compare/bounds_null.py).
    """
    if not n_1 or not n_2:
        return -1.0, 1.0
    (low1, high1), (low2, high2) = (
        compute_clopper_pearson_interval(successes_1, n_1, alpha),
        compute_clopper_pearson_interval(successes_2, n_2, alpha),
    )
    rate1, rate2 = successes_1 / n_1, successes_2 / n_2
    down = math.hypot(rate1 - low1, high2 - rate2)
    up = math.hypot(high1 - rate1, rate2 - low2)
    return max(-1.0, rate1 - rate2 - down), min(1.0, rate1 - rate2 + up)


def compute_unpaired_difference_p_value(
    successes_1: int, n_1: int, successes_2: int, n_2: int, null_difference: float
) -> float:
    """Return the two-sided p-value against a null difference, derived from the unpaired interval.

    It is never below LEAST_P.
    """

    def is_excluded(alpha: float) -> bool:
        low, high = compute_unpaired_difference_interval(successes_1, n_1, successes_2, n_2, alpha)
        return not low <= null_difference <= high

    return bisect_to_interval_end(is_excluded, 1.0, LEAST_P, 60)  # finer than the smallest p


def find_detectable_paired_difference(n: int, discordant_rate: float, alpha: float = ALPHA) -> float | None:
    """Return the smallest true difference that n question pairs detect with 80 % power, or None.

    Connor's formula (Biometrics 43, 1987), corrected for continuity because the exact test is
    stricter: n·d - 1 = z(alpha/2)·√(n·r) + z(power)·√(n·(r - d²)). With a difference of d, more
    pairs are discordant than the observed rate r0: at worst all of it adds to the discordant
    pairs that noise makes, r = r0 + d. If the difference replaces some of these, the power is
    higher (bench/compare/compare_null.py tries both).
    """
    assert 0 <= discordant_rate <= 1
    z_alpha, z_power = normal_quantile(alpha), NormalDist().inv_cdf(POWER)

    def compute_detection_excess(difference: float) -> float:
        rate = min(1.0, discordant_rate + difference)
        spread = z_power * math.sqrt(n * (rate - difference * difference))
        return n * difference - 1 - z_alpha * math.sqrt(n * rate) - spread

    return (
        None
        if compute_detection_excess(1.0) < 0
        else bisect_to_interval_end(lambda difference: compute_detection_excess(difference) >= 0, 1.0, 0.0)
    )


def find_detectable_unpaired_difference(
    n_1: int, n_2: int, rate: float, alpha: float = ALPHA
) -> float | None:
    """Return the smallest true difference that Fisher's test detects with 80 % power, or None.

    Casagrande, Pike and Smith's formula (Applied Statistics 27, 1978), which allows for the
    exact test's strictness: d - (1/n1 + 1/n2)/2 = z(alpha/2)·√(p·q·(1/n1 + 1/n2)) +
    z(power)·√(p1·q1/n1 + p2·q2/n2). One side has the given rate, the other is closer to one
    half, where a difference is hardest to detect.
    """
    assert 0 <= rate <= 1
    if not n_1 or not n_2:
        return None
    z_alpha, z_power = normal_quantile(alpha), NormalDist().inv_cdf(POWER)

    def compute_detection_excess(difference: float) -> float:
        less = max(0.0, max(rate, 1 - rate) - difference)
        far_variance, near_variance = (p * (1 - p) for p in (less, min(1.0, less + difference)))
        centre = less + difference / 2
        pooled = z_alpha * math.sqrt(centre * (1 - centre) * (1 / n_1 + 1 / n_2))
        own = z_power * math.sqrt(
            max(far_variance / n_1 + near_variance / n_2, near_variance / n_1 + far_variance / n_2)
        )
        return difference - (1 / n_1 + 1 / n_2) / 2 - pooled - own

    return (
        None
        if compute_detection_excess(1.0) < 0
        else bisect_to_interval_end(lambda difference: compute_detection_excess(difference) >= 0, 1.0, 0.0)
    )


def compute_student_quantile(alpha: float, degrees_of_freedom: int) -> float:
    """Return the two-sided quantile of Student's t: |t| is above it with probability `alpha`."""
    from scipy.special import stdtrit

    assert 0 < alpha < 1 <= degrees_of_freedom
    return abs(float(stdtrit(degrees_of_freedom, alpha / 2)))


def student_p_value(t: float, degrees_of_freedom: int) -> float:
    from scipy.special import stdtr

    return _clip_p_value(2 * float(stdtr(degrees_of_freedom, -abs(t))))


def _clip_p_value(probability: float) -> float:
    """Clip a probability to at most 1 and at least the smallest positive float, so that p is never
    0.
    """
    return min(1.0, max(probability, math.ulp(0.0)))


def normal_quantile(alpha: float) -> float:
    """Return the two-sided quantile of the standard normal: |z| is above it with probability
    `alpha`.
    """
    return -NormalDist().inv_cdf(alpha / 2)


def bisect_to_interval_end(
    is_inside: Callable[[float], bool], inner_value: float, range_end: float, halvings: int = HALVINGS
) -> float:
    """Find the end of a confidence interval by bisection."""
    if is_inside(range_end):
        return range_end
    for _ in range(halvings):
        middle = (inner_value + range_end) / 2
        inner_value, range_end = (middle, range_end) if is_inside(middle) else (inner_value, middle)
    return inner_value
