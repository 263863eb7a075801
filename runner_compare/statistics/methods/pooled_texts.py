"""Test of log-likelihood differences, pooled over several tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from runner_compare.statistics import ratios
from runner_compare.statistics.effects import Effect, Method, Test
from runner_compare.statistics.planning import compute_samples_to_detect_shift, has_enough_units_to_plan
from runner_compare.statistics.pooling import (
    MAX_UNKNOWN,
    PairedTexts,
    PoolingWeights,
    compute_small_task_variance,
    compute_weighted_mean_uncertainty,
)
from runner_compare.statistics.stats import ALPHA, POWER


@dataclass(frozen=True)
class PooledLikelihoodTest(Test):
    """Test of log-likelihood differences over the documents of several tasks.

    Each task has at least two documents. If weighted by questions, all units count equally. Test
    and interval are those of a single task; error, skewness and degrees of freedom are those of
    the weighted mean, within tasks.
    """

    tasks: Sequence[PairedTexts]
    unit: str
    weights: PoolingWeights

    knows_power = True

    @cached_property
    def units_per_task(self) -> list[float]:
        return [math.fsum(task.sizes) for task in self.tasks]

    @cached_property
    def task_weights(self) -> list[float]:
        if self.weights is PoolingWeights.questions:
            return [total / math.fsum(self.units_per_task) for total in self.units_per_task]
        return [1 / len(self.tasks)] * len(self.tasks)

    @cached_property
    def uncertainty(self) -> tuple[float, float, float, int]:
        """Standard error, skewness, kurtosis and degrees of freedom of the weighted mean."""
        return compute_weighted_mean_uncertainty(self.tasks, self.task_weights)

    @cached_property
    def weighted_mean(self) -> float:
        weighted = zip(self.task_weights, self.tasks, strict=True)
        return math.fsum(
            share * ratios.ratio_of_sums(task.differences, task.sizes) for share, task in weighted
        )

    @property
    def num_texts(self) -> int:
        return sum(len(task.sizes) for task in self.tasks)

    def compute_effect(self) -> Effect:
        error = self.uncertainty[0]
        low, high = self.compute_interval_at_level(ALPHA)
        size = int(math.fsum(self.units_per_task))
        counts = {"error": error, "size": size, "unit": self.unit, "tasks": len(self.tasks)}
        p = self.compute_p_value(0.0)
        return Effect(
            Method.sign_flips,
            "log_likelihood",
            self.weighted_mean,
            low,
            high,
            p,
            self.num_texts,
            self.num_texts,
            counts,
        )

    def compute_interval_at_level(self, alpha: float) -> tuple[float, float]:
        error, bend, _, freedom = self.uncertainty
        return ratios.compute_conservative_interval(self.weighted_mean, error, bend, freedom, alpha)

    def compute_p_value(self, null_value: float) -> float:
        error, bend, _, freedom = self.uncertainty
        by_unit = [share / total for share, total in zip(self.task_weights, self.units_per_task, strict=True)]
        differences = [
            weight * (difference - null_value * size)
            for task, weight in zip(self.tasks, by_unit, strict=True)
            for difference, size in zip(task.differences, task.sizes, strict=True)
        ]
        return ratios.compute_conservative_p_value(
            differences, self.weighted_mean - null_value, error, bend, freedom
        )

    def detectable_difference(self, level: float) -> float | None:
        # With its own error: where one task of few texts has most of the spread, these texts seldom
        # show all of it.
        error, bend, tails, freedom = self.uncertainty
        texts = freedom + 1
        return ratios.find_detectable_ratio_difference(
            error, texts, level, scaled_skewness=bend, kurtosis=tails, observed_samples=texts
        )

    @cached_property
    def _can_plan(self) -> bool:
        error, _, _, freedom = self.uncertainty
        return (
            has_enough_units_to_plan(freedom)
            and compute_small_task_variance(self.tasks, self.task_weights) <= MAX_UNKNOWN * error**2
        )

    @property
    def can_plan(self) -> bool:
        return self._can_plan

    def plan_sample_size_for_margin(self, margin: float, level: float, power: float = POWER) -> int | None:
        error, bend, tails, freedom = self.uncertainty
        alike = compute_samples_to_detect_shift(
            error, freedom + 1, margin, level, power, bend, tails, is_upward=True
        )
        return None if alike is None else math.ceil(alike * self.num_texts / (freedom + 1))
