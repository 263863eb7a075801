"""Computes the pooled difference over several tasks, with test and interval.

If all questions have equal weight, the wins and losses of all tasks are added, and
McNemar's exact test decides. If all tasks have equal weight, the same test uses weights:
without a difference, each question that only one side solved is as likely a win as a loss,
and the distribution of the weighted sum is computed, not drawn. The interval has to exclude
0, too. Only that path imports numpy and scipy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from statistics import NormalDist

from runner_compare.statistics import ratios, stats
from runner_compare.statistics.margins import find_smallest_sample_size
from runner_compare.statistics.planning import estimate_disagreement_rate, has_enough_units_to_plan
from runner_compare.statistics.stats import ALPHA, POWER

MAX_ERRORS = 8.0  # standard errors from an estimate: p is never below 1e-15
MAX_UNKNOWN = 0.1  # of the variance of the mean may come from tasks with too few texts to plan from
FINEST = 1 << 16  # the largest weighted sum in whole units; with more, weights are rounded


class PoolingWeights(StrEnum):
    """Weighting of a pooled difference: equal weight per question or per task."""

    questions = "questions"
    tasks = "tasks"


@dataclass(frozen=True)
class PairedVerdicts:
    """Paired verdicts on one task: wins, losses and the number of question pairs."""

    wins: int
    losses: int
    n: int
    baseline_correct: int = 0


@dataclass(frozen=True)
class PairedTexts:
    """Documents of one task, with log-likelihood differences in nats and sizes.

    Sizes are in tokens, bytes or texts (1 each).
    """

    differences: Sequence[float]
    sizes: Sequence[float]


def mean_task_difference(tasks: Sequence[PairedVerdicts]) -> float:
    return math.fsum((task.wins - task.losses) / task.n for task in tasks) / len(tasks)


def compute_mean_difference_interval(
    tasks: Sequence[PairedVerdicts], alpha: float = ALPHA
) -> tuple[float, float]:
    """Return the confidence interval of the mean difference over tasks.

    The method of variance estimates recovery (Donner and Zou, Statistical Methods in Medical
    Research 21, 2012) adds the distances from each task's estimate to the limit of its Tango
    interval in quadrature. So it is not symmetric, and a task without discordant pairs still adds
    its uncertainty.
    """
    centre, down, up = mean_task_difference(tasks), 0.0, 0.0
    for task in tasks:
        own = (task.wins - task.losses) / task.n
        low, high = _cached_tango_interval(task.wins, task.losses, task.n, alpha)
        down, up = math.hypot(down, own - low), math.hypot(up, high - own)
    return max(-1.0, centre - down / len(tasks)), min(1.0, centre + up / len(tasks))


@lru_cache(maxsize=4096)
def _cached_tango_interval(wins: int, losses: int, n: int, alpha: float) -> tuple[float, float]:
    return stats.compute_tango_interval(wins, losses, n, alpha)


def compute_p_value_by_interval_inversion(tasks: Sequence[PairedVerdicts], null_difference: float) -> float:
    """Return the two-sided p-value against a null difference, found by inverting the confidence interval."""
    from scipy.optimize import brentq

    centre, normal = mean_task_difference(tasks), NormalDist()
    side = 0 if null_difference < centre else 1  # the end of the interval that reaches it

    def compute_overshoot(z: float) -> float:
        end = compute_mean_difference_interval(tasks, 2 * normal.cdf(-z))[side]
        return end - null_difference if side else null_difference - end

    if compute_overshoot(0.0) >= 0:  # the mean itself, up to rounding
        return 1.0
    z = (
        MAX_ERRORS
        if compute_overshoot(MAX_ERRORS) < 0
        else float(brentq(compute_overshoot, 0.0, MAX_ERRORS, xtol=1e-6))
    )
    return 2 * normal.cdf(-z)


def compute_mean_difference_p_value(tasks: Sequence[PairedVerdicts], max_units: int = FINEST) -> float:
    """Return the two-sided p-value of the mean difference.

    The test uses sign flips. If these reject, the interval must exclude 0, too. The flips alone
    reject up to 5.6 % if tasks differ in opposite directions, and would reject means that the
    interval includes (bench/compare/pool_null.py).
    """
    p = compute_weighted_sign_flip_p_value(tasks, max_units)
    return p if p >= ALPHA else max(p, compute_p_value_by_interval_inversion(tasks, 0.0))


def compute_weighted_sign_flip_p_value(tasks: Sequence[PairedVerdicts], max_units: int = FINEST) -> float:
    """Return the two-sided sign-flip p-value of the mean difference.

    Under the null, wins and losses are equally likely. A win of a task with n questions counts
    1 / n. These weights are whole multiples of a unit where the sums stay below `max_units`, else
    rounded to whole ones: the test of nearly the same mean, and as exact.
    """
    import numpy as np

    discordant = [task.wins + task.losses for task in tasks]
    multiple = math.lcm(*(task.n for task in tasks))
    weights = [multiple // task.n for task in tasks]
    largest = sum(weight * count for weight, count in zip(weights, discordant, strict=True))
    if largest > max_units:
        weights = [max(1, round(weight * max_units / largest)) for weight in weights]
        largest = sum(weight * count for weight, count in zip(weights, discordant, strict=True))
    observed = abs(
        sum(weight * (task.wins - task.losses) for weight, task in zip(weights, tasks, strict=True))
    )
    if observed == 0:
        return 1.0
    # The characteristic function of the sum is a product of cosines; its inverse transform has the
    # probabilities.
    points = 1 << (2 * largest + 1).bit_length()
    angles = 2 * np.pi / points * np.arange(points // 2 + 1)
    product = np.ones(len(angles))
    for weight, count in zip(weights, discordant, strict=True):
        product *= np.cos(weight * angles) ** count
    # of the sums 0, 1 … and from the end -1, -2 …
    chances = np.clip(np.fft.irfft(product, points), 0.0, None)
    return float(min(1.0, max(2 * chances[observed : largest + 1].sum(), math.ulp(0.0))))


def find_detectable_mean_difference(tasks: Sequence[PairedVerdicts], alpha: float = ALPHA) -> float | None:
    """Return the smallest true difference, equal in all tasks, that is detected with 80 % power,
    or None.

    Connor's formula, as for a single task (`stats.find_detectable_paired_difference`), with the tasks'
    variances added; and the interval has to exclude 0, too. One discordant pair per task is
    added: few of them underestimate how many to expect.
    """
    from scipy.optimize import brentq

    z_alpha, z_power = -NormalDist().inv_cdf(alpha / 2), NormalDist().inv_cdf(POWER)
    # by which the sum of the flips can change
    smallest_step = 1 / (len(tasks) * max(task.n for task in tasks))

    def compute_excess_over_detectable_difference(difference: float) -> float:
        rates = [(min(1.0, (task.wins + task.losses + 1) / task.n + difference), task.n) for task in tasks]
        of_null = math.sqrt(sum(rate / n for rate, n in rates)) / len(tasks)
        of_truth = math.sqrt(sum(max(0.0, rate - difference**2) / n for rate, n in rates)) / len(tasks)
        expected = [_create_expected_verdicts(task, difference) for task in tasks]
        half = compute_mean_difference_interval(expected, alpha)[1] - mean_task_difference(expected)
        return difference - max(smallest_step + z_alpha * of_null, half) - z_power * of_truth

    return (
        None
        if compute_excess_over_detectable_difference(1.0) < 0
        else float(brentq(compute_excess_over_detectable_difference, 0.0, 1.0))
    )


def plan_pooled_questions_for_margin(
    tasks: Sequence[PairedVerdicts], margin: float, alpha: float = ALPHA, power: float = POWER
) -> int | None:
    """Return the total number of questions needed to show non-inferiority if neither run is better.

    Each task grows in proportion and keeps its rate of disagreement. The interval that has to
    exclude the margin is that of the expected disagreement, and the tasks' variances are added.
    None if ten million are not enough.
    """
    n, normal = sum(task.n for task in tasks), NormalDist()
    rates = [(task.n / n, estimate_disagreement_rate(task.wins + task.losses, task.n)) for task in tasks]

    def compute_power(count: int) -> float:
        down = spread = 0.0
        for share, rate in rates:
            half = count * share * rate / 2
            low, _ = stats.compute_tango_interval(half, half, count * share, alpha)
            down, spread = (math.hypot(down, low), math.hypot(spread, math.sqrt(rate / (count * share))))
        return normal.cdf((margin * len(tasks) - down) / spread)

    return find_smallest_sample_size(compute_power, power)


def _create_expected_verdicts(task: PairedVerdicts, difference: float) -> PairedVerdicts:
    discordant = task.wins + task.losses + 1
    wins = discordant // 2
    return PairedVerdicts(
        wins, min(task.n - wins, discordant - wins + math.ceil(task.n * difference)), task.n
    )


def compute_small_task_variance(tasks: Sequence[PairedTexts], weights: Sequence[float]) -> float:
    return math.fsum(
        (share * ratios.compute_ratio_standard_error(task.differences, task.sizes)) ** 2
        for task, share in zip(tasks, weights, strict=True)
        if not has_enough_units_to_plan(len(task.sizes))
    )


def compute_weighted_mean_uncertainty(
    tasks: Sequence[PairedTexts], weights: Sequence[float]
) -> tuple[float, float, float, int]:
    """Return the weighted mean's standard error, skewness, kurtosis and degrees of freedom.

    The degrees of freedom are Welch and Satterthwaite's. The kurtosis is that of equal texts
    (one more than the degrees of freedom) whose standard error would be known as precisely.
    """
    square = cube = fourth = unknown = 0.0
    for task, share in zip(tasks, weights, strict=True):
        n, error = len(task.sizes), share * ratios.compute_ratio_standard_error(task.differences, task.sizes)
        square += error**2
        cube += error**3 * ratios.skewness(task.differences, task.sizes) / math.sqrt(n)
        fourth += error**4 / (n - 1)
        unknown += error**4 * (ratios.kurtosis(task.differences, task.sizes) - 1) / n
    if not fourth:
        return 0.0, 0.0, 3.0, sum(len(task.sizes) - 1 for task in tasks)
    freedom = max(1, math.floor(square**2 / fourth))
    return math.sqrt(square), cube / square**1.5, 1 + (freedom + 1) * unknown / square**2, freedom
