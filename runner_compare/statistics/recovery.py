"""Recovery: the accuracy of a candidate divided by the accuracy of its baseline, on the same questions.

A true recovery r makes the mean of (candidate - r * baseline) zero. So the interval contains
each r for which the test of a mean difference (paired_means.py) does not reject zero. This is
Fieller's method with the test that also decides about differences: the questions stay paired,
questions of one cluster count together, and r = 1 is the test of no difference
(bench/compare/recovery_null.py).

Over several tasks the recovery is the ratio of the mean accuracies. Tasks with a low accuracy
make a mean of the tasks' own ratios unstable, and a ratio of means needs no other test.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from runner_compare.statistics import ratios
from runner_compare.statistics.paired_means import compute_mean_p_values
from runner_compare.statistics.pooling import PoolingWeights
from runner_compare.statistics.seed_means import (
    combine_question_and_seed_errors,
    compute_difference_p_value,
    compute_seed_errors,
)
from runner_compare.statistics.stats import ALPHA

ROUNDS, PARTS = 4, 12  # an end of the interval is searched in the parts of a range, again and again


@dataclass(frozen=True)
class PairedAccuracies:
    """Accuracy of the candidate and of the baseline on each question of one task."""

    candidate: Sequence[float]
    baseline: Sequence[float]
    clusters: Sequence[Hashable] | None = None
    answers: int = 1  # to each question
    is_strict: bool = False  # as in MeanDifference
    # the accuracy of each seed, if there are several
    candidate_seeds: Sequence[float] = ()
    baseline_seeds: Sequence[float] = ()


@dataclass(frozen=True)
class Recovery:
    """Recovery with its interval. The upper end is infinite if the baseline may solve no question."""

    value: float
    low: float
    high: float
    candidate: float  # the mean accuracies
    baseline: float
    n: int


def compute_recovery(
    tasks: Sequence[PairedAccuracies], weights: PoolingWeights = PoolingWeights.tasks, alpha: float = ALPHA
) -> Recovery | None:
    """Return the recovery over one or several tasks; None if the baseline solves no question.

    Clusters with the same name are one cluster, also across tasks.
    """
    candidate, baseline = (
        _weighted_mean(tasks, [fmean(side) for side in sides], weights)
        for sides in ([task.candidate for task in tasks], [task.baseline for task in tasks])
    )
    if not baseline:
        return None
    value = candidate / baseline
    compute_recovery_p_values = _create_recovery_p_value_function(tasks, weights)
    low, high = (_find_interval_end(compute_recovery_p_values, value, end, alpha) for end in (0.0, 1.0))
    return Recovery(value, low, high, candidate, baseline, sum(len(task.candidate) for task in tasks))


def _weighted_mean(
    tasks: Sequence[PairedAccuracies], means: Sequence[float], weights: PoolingWeights
) -> float:
    sizes = [1 if weights is PoolingWeights.tasks else len(task.candidate) for task in tasks]
    return math.fsum(size * mean for size, mean in zip(sizes, means, strict=True)) / sum(sizes)


def _create_recovery_p_value_function(
    tasks: Sequence[PairedAccuracies], weights: PoolingWeights
) -> Callable[[Sequence[float]], Any]:
    """Return the function that computes the p-value of each true recovery."""
    import numpy as np

    questions = sum(len(task.candidate) for task in tasks)
    names: list[Hashable] = []
    columns: list[tuple[float, float, float]] = []
    for number, task in enumerate(tasks):
        weight = questions / len(tasks) / len(task.candidate) if weights is PoolingWeights.tasks else 1.0
        pairs = zip(task.candidate, task.baseline, strict=True)
        columns += [(weight * candidate, weight * baseline, weight) for candidate, baseline in pairs]
        names += task.clusters or [(number, position) for position in range(len(task.candidate))]
    candidate, baseline, sizes = (
        np.array(ratios.sum_by_cluster(values, names)[0]) for values in zip(*columns, strict=True)
    )
    answer = 1 / max(task.answers for task in tasks)
    is_strict = any(task.is_strict for task in tasks)

    def compute_recovery_p_values(recoveries: Sequence[float]) -> Any:
        rates = np.array(recoveries)
        scale = np.maximum(1.0, rates)
        sums = (candidate - rates[:, None] * baseline) / scale[:, None]
        gaps = sums.sum(axis=1) / sizes.sum()
        # A question's value lies between -rate and 1, divided by the scale. The shift puts the end on
        # the other side of zero at -1 or 1, which the test takes for the worst unseen value.
        worst = np.where(gaps > 0, rates, 1.0) / scale
        shift = np.sign(gaps) * (worst - 1)
        p_values = compute_mean_p_values(
            sums + np.outer(shift, sizes), np.tile(sizes, (len(sums), 1)), shift, is_strict, answer / scale
        )
        if not any(task.candidate_seeds for task in tasks):
            return p_values
        return np.array(
            [
                _compute_p_value_with_seeds(tasks, *of_rate)
                for of_rate in zip(recoveries, gaps * scale, p_values, strict=True)
            ]
        )

    return compute_recovery_p_values


def _compute_p_value_with_seeds(
    tasks: Sequence[PairedAccuracies], recovery: float, gap: float, p_value: float
) -> float:
    """Return the p-value over questions and seeds, as SeedTest does for differences."""
    (task,) = tasks
    components = [
        *compute_seed_errors(task.candidate_seeds),
        *compute_seed_errors([recovery * accuracy for accuracy in task.baseline_seeds]),
    ]
    parts = combine_question_and_seed_errors(p_value, gap, components)
    return p_value if parts is None else max(p_value, compute_difference_p_value(parts, gap))


def _find_interval_end(
    compute_recovery_p_values: Callable[[Sequence[float]], Any], value: float, limit: float, alpha: float
) -> float:
    """Search between the estimate and a limit. A recovery r is searched as r / (1 + r), which ends at 1."""
    inside, last = value / (1 + value), limit
    for _ in range(ROUNDS):
        step = (limit - inside) / PARTS
        tried = [inside + step * part for part in range(1, PARTS)]
        outside = [*(compute_recovery_p_values([share / (1 - share) for share in tried]) < alpha), True]
        first = outside.index(True)
        inside, limit = [inside, *tried][first], [*tried, limit][first]
    inside = last if limit == last else inside
    return inside / (1 - inside) if inside < 1 else math.inf
