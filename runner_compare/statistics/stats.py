"""The statistics behind a score and a comparison: intervals, tests, and the differences that a test
can detect.

What scipy has comes from scipy, imported where it is needed: it takes up to a second, and the score
of plain questions needs none of it. The tests check the rest against scipy, statsmodels or its own
definition. Proportions and differences are fractions (0.024, not 2.4 points). Tests decide.
Intervals show how large a difference may be: near the border an interval here can exclude 0
although McNemar's or Fisher's exact test does not reject, and then and in the reverse case
effects.py moves the end, so that test and interval agree.
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


def wilson_interval(k: float, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return Wilson's score interval for k successes in n; (0, 1) when nothing was counted."""
    assert 0 <= k <= n
    if n == 0:
        return 0.0, 1.0
    z = normal_bound(1 - confidence)
    rate, shrink = k / n, 1 + z * z / n
    centre = (rate + z * z / (2 * n)) / shrink
    half = z / shrink * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    # The ends are exact at k = 0 and k = n, where rounding would leave 1e-17 or 0.999….
    return (0.0 if k == 0 else centre - half), (1.0 if k == n else centre + half)


def exact_interval(k: float, n: float, alpha: float = ALPHA) -> tuple[float, float]:
    """Return Clopper and Pearson's interval for k successes in n; (0, 1) when nothing was counted.

    Each end alone is beyond the truth in at most alpha / 2, whatever the truth is. Wilson's is so
    in the mean over truths only: of 20 that are right in 97.2 %, its upper end is too low in 10 %.
    """
    from scipy.special import betaincinv

    assert 0 <= k <= n
    low = float(betaincinv(k, n - k + 1, alpha / 2)) if k > 0 else 0.0
    high = float(betaincinv(k + 1, n - k, 1 - alpha / 2)) if k < n else 1.0
    return low, high


def mcnemar_exact(b: int, c: int) -> float:
    """Return the two-sided exact p of McNemar's test for b and c discordant pairs; 1 when there are
    none."""
    from scipy.special import bdtr

    assert min(b, c) >= 0
    return _p(2 * float(bdtr(min(b, c), b + c, 0.5)))


def holm(ps: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values, in the order given."""
    return [p for (p,) in holm_of_groups([[p] for p in ps])]


def holm_of_groups(groups: Sequence[Sequence[float]], times: int = 1) -> list[list[float]]:
    """Return adjusted p-values of hypotheses in groups, of each of which at most one can be true
    (Holm, Shaffer).

    `times`: of so many families that share one error, this one has an equal part.

    A true difference is at most one of 0 and minus the margin: so a comparison counts once,
    whatever is asked about it, until all of its hypotheses are rejected (Shaffer, Journal of the
    American Statistical Association 81, 1986).
    """
    adjusted = [[0.0] * len(group) for group in groups]
    waiting = [len(group) for group in groups]
    highest = 0.0
    for p, number, position in sorted(
        (p, i, j) for i, group in enumerate(groups) for j, p in enumerate(group)
    ):
        highest = max(highest, min(1.0, p * times * sum(map(bool, waiting))))
        adjusted[number][position] = highest
        waiting[number] -= 1
    return adjusted


def paired_difference_interval(b: int, c: int, n: int, alpha: float = ALPHA) -> tuple[float, float]:
    """Return the interval of the values that `paired_difference_p` does not reject; (-1, 1) when n
    is 0.

    b of n pairs succeeded only the first time, c only the second.
    """
    assert min(b, c, n - b - c) >= 0
    if n == 0:
        return -1.0, 1.0
    return _lower_end(b, c, n, alpha), -_lower_end(c, b, n, alpha)


def _lower_end(b: int, c: int, n: int, alpha: float) -> float:
    from scipy.special import bdtr, betaincinv

    low, _ = tango_interval(b, c, n, alpha, half_step(b, c, n))
    # wins are too few for it: Clopper and Pearson's lower end
    if low > 0 and bdtr(n - b, n, 1 - low) > alpha / 2:
        return float(betaincinv(b, n - b + 1, alpha / 2))
    # losses are too few for it: minus their upper end
    if -1 < low < 0 and bdtr(c, n, -low) < alpha / 2:
        return float(betaincinv(n - c, c + 1, alpha / 2)) - 1
    return low


def paired_difference_p(b: int, c: int, n: int, difference: float) -> float:
    """Return the two-sided p against a true paired difference; 0 has a test of its own,
    `mcnemar_exact`.

    It is Tango's score test (Statistics in Medicine 17, 1998) with a correction for continuity,
    since counts move in steps: without it, up to 6.7 % of such tests at 5 % are wrong. Where nearly
    all discordant pairs are of one kind, they are few and skewed, and the exact binomial test of
    that kind is used, too: a true difference of -m needs at least m of all pairs that succeeded
    only the second time. If they are too few, -m is excluded from above; it is not excluded from
    below unless they are too many. With McNemar's test, errors are within the level in all tables
    of up to 200 pairs, at any disagreement (bench/compare/paired_levels.py).
    """
    from scipy.special import bdtr

    if n == 0 or (b - c) / n == difference:
        return 1.0
    if (b - c) / n < difference:
        b, c, difference = c, b, -difference
    p = min(1.0, 2 * NormalDist().cdf(-paired_score(b, c, n, difference, half_step(b, c, n))))
    if difference < 0:
        return min(p, 2 * float(bdtr(c, n, -difference)))
    return max(p, min(1.0, 2 * float(bdtr(n - b, n, 1 - difference))))


def half_step(b: float, c: float, n: float) -> float:
    """Return half of the steps in which wins minus losses move: of 1 where most pairs are ties, of
    2 without ties."""
    return (1 + (b + c) / n) / 2


def tango_interval(
    b: float, c: float, n: float, alpha: float = ALPHA, correction: float = 0.0
) -> tuple[float, float]:
    """Return Tango's score interval of the paired difference (b - c) / n; the counts may be
    expected ones.

    It keeps its coverage for small n and few discordant pairs, where Wald's interval shrinks to
    nothing. `correction` for continuity is in pairs.
    """
    if n == 0:
        return -1.0, 1.0
    z, estimate = normal_bound(alpha), (b - c) / n

    def is_inside(difference: float) -> bool:
        return abs(paired_score(b, c, n, difference, correction)) <= z

    return edge(is_inside, estimate, -1.0), edge(is_inside, estimate, 1.0)


def paired_score(b: float, c: float, n: float, difference: float, correction: float = 0.0) -> float:
    """Return the distance of the data from a true paired difference, in standard errors under that
    difference."""
    distance = (b - c) - n * difference
    distance = math.copysign(max(0.0, abs(distance) - correction), distance)
    linear = (2 * n - b + c) * difference - b - c
    constant = -c * difference * (1 - difference)
    only_second = (math.sqrt(max(0.0, linear * linear - 8 * n * constant)) - linear) / (4 * n)
    variance = n * (2 * only_second + difference * (1 - difference))
    if variance <= 0:  # only at -1, 1 and (without discordant pairs) at 0
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def unpaired_difference_interval(
    k1: int, n1: int, k2: int, n2: int, alpha: float = ALPHA
) -> tuple[float, float]:
    """Return the hybrid interval for k1 / n1 - k2 / n2 of two independent samples, with exact ends
    for each.

    Newcombe's way (method 10, Statistics in Medicine 17, 1998) to join the intervals of two shares,
    in closed form and never beyond -1 or 1, with Clopper and Pearson's ends instead of Wilson's.
    With those it misses in up to 3.9 % at one end where shares differ by up to 20 points, and with
    these in at most 2.5 % (bench/compare/bounds_null.py).
    """
    if not n1 or not n2:
        return -1.0, 1.0
    (low1, high1), (low2, high2) = exact_interval(k1, n1, alpha), exact_interval(k2, n2, alpha)
    rate1, rate2 = k1 / n1, k2 / n2
    down = math.hypot(rate1 - low1, high2 - rate2)
    up = math.hypot(high1 - rate1, rate2 - low2)
    return max(-1.0, rate1 - rate2 - down), min(1.0, rate1 - rate2 + up)


def unpaired_difference_p(k1: int, n1: int, k2: int, n2: int, difference: float) -> float:
    """Return the two-sided p against a true difference: the level from which on the hybrid interval
    leaves it out.

    It is never below LEAST_P.
    """

    def leaves_out(alpha: float) -> bool:
        low, high = unpaired_difference_interval(k1, n1, k2, n2, alpha)
        return not low <= difference <= high

    return edge(leaves_out, 1.0, LEAST_P, 60)  # finer than the smallest p


def detectable_difference(n: int, discordant_rate: float, alpha: float = ALPHA) -> float | None:
    """Return the smallest true paired difference that n pairs detect with 80 % power; None if n
    detects none.

    Connor's formula (Biometrics 43, 1987), corrected for continuity because the exact test is
    stricter: n·d - 1 = z(alpha/2)·√(n·r) + z(power)·√(n·(r - d²)). With a difference of d, more
    pairs are discordant than the observed rate r0: at worst all of it adds to the discordant pairs
    that noise makes, r = r0 + d. If the difference replaces some of these, the power is higher
    (bench/compare/compare_null.py tries both).
    """
    assert 0 <= discordant_rate <= 1
    z_alpha, z_power = normal_bound(alpha), NormalDist().inv_cdf(POWER)

    def surplus(difference: float) -> float:
        rate = min(1.0, discordant_rate + difference)
        spread = z_power * math.sqrt(n * (rate - difference * difference))
        return n * difference - 1 - z_alpha * math.sqrt(n * rate) - spread

    return None if surplus(1.0) < 0 else edge(lambda difference: surplus(difference) >= 0, 1.0, 0.0)


def unpaired_detectable_difference(n1: int, n2: int, rate: float, alpha: float = ALPHA) -> float | None:
    """Return the smallest true difference that Fisher's test detects with 80 % power; None if n
    detects none.

    Casagrande, Pike and Smith's formula (Applied Statistics 27, 1978), which allows for the exact
    test's strictness: d - (1/n1 + 1/n2)/2 = z(alpha/2)·√(p·q·(1/n1 + 1/n2)) + z(power)·√(p1·q1/n1 +
    p2·q2/n2). One side has the given rate, the other is closer to one half, where a difference is
    hardest to detect.
    """
    assert 0 <= rate <= 1
    if not n1 or not n2:
        return None
    z_alpha, z_power = normal_bound(alpha), NormalDist().inv_cdf(POWER)

    def surplus(difference: float) -> float:
        less = max(0.0, max(rate, 1 - rate) - difference)
        far_variance, near_variance = (p * (1 - p) for p in (less, min(1.0, less + difference)))
        centre = less + difference / 2
        pooled = z_alpha * math.sqrt(centre * (1 - centre) * (1 / n1 + 1 / n2))
        own = z_power * math.sqrt(
            max(far_variance / n1 + near_variance / n2, near_variance / n1 + far_variance / n2)
        )
        return difference - (1 / n1 + 1 / n2) / 2 - pooled - own

    return None if surplus(1.0) < 0 else edge(lambda difference: surplus(difference) >= 0, 1.0, 0.0)


def student_quantile(alpha: float, freedom: int) -> float:
    """Return the bound that |t|, for Student's t with this freedom, stays below with probability 1
    - alpha."""
    from scipy.special import stdtrit

    assert 0 < alpha < 1 <= freedom
    return abs(float(stdtrit(freedom, alpha / 2)))


def student_p(t: float, freedom: int) -> float:
    """Return the two-sided p of Student's t with this freedom."""
    from scipy.special import stdtr

    return _p(2 * float(stdtr(freedom, -abs(t))))


def _p(chance: float) -> float:
    """Return a chance as a p-value, which is at most 1 and never 0, even where the chance is too
    small for a float."""
    return min(1.0, max(chance, math.ulp(0.0)))


def normal_bound(alpha: float) -> float:
    """Return the bound that the absolute value of a standard normal exceeds with this probability."""
    return -NormalDist().inv_cdf(alpha / 2)


def edge(is_inside: Callable[[float], bool], inside: float, end: float, halvings: int = HALVINGS) -> float:
    """Return where the interval ends between a value inside it and the end of the range, by
    bisection."""
    if is_inside(end):
        return end
    for _ in range(halvings):
        middle = (inside + end) / 2
        inside, end = (middle, end) if is_inside(middle) else (inside, middle)
    return inside
