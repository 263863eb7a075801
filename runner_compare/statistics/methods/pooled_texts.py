"""Log-likelihoods of several tasks as one difference, in nats per unit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from runner_compare.statistics import ratios
from runner_compare.statistics.effects import Effect, Method, Test
from runner_compare.statistics.planning import can_plan_from, samples_to_detect
from runner_compare.statistics.pooling import MAX_UNKNOWN, PairedTexts, Weights, of_few_texts, uncertainty
from runner_compare.statistics.stats import ALPHA, POWER


@dataclass(frozen=True)
class PooledTexts(Test):
    """The texts of several tasks, at least two each; by questions, all units count the same.

    Test and interval are those of a single task; error, skewness and degrees of freedom are those
    of the weighted mean, within tasks.
    """

    tasks: Sequence[PairedTexts]
    unit: str
    weights: Weights

    knows_power = True

    @cached_property
    def totals(self) -> list[float]:
        """The units of each task."""
        return [math.fsum(task.sizes) for task in self.tasks]

    @cached_property
    def shares(self) -> list[float]:
        if self.weights is Weights.questions:
            return [total / math.fsum(self.totals) for total in self.totals]
        return [1 / len(self.tasks)] * len(self.tasks)

    @cached_property
    def uncertainty(self) -> tuple[float, float, float, int]:
        """The weighted mean's standard error, its skewness, kurtosis and degrees of freedom."""
        return uncertainty(self.tasks, self.shares)

    @cached_property
    def value(self) -> float:
        """The weighted mean of the differences."""
        weighted = zip(self.shares, self.tasks, strict=True)
        return math.fsum(share * ratios.ratio(task.differences, task.sizes) for share, task in weighted)

    @property
    def n(self) -> int:
        return sum(len(task.sizes) for task in self.tasks)

    def compare(self) -> Effect:
        """Compute the effect."""
        error = self.uncertainty[0]
        low, high = self.interval_at(ALPHA)
        size = int(math.fsum(self.totals))
        counts = {"error": error, "size": size, "unit": self.unit, "tasks": len(self.tasks)}
        p = self.p_at(0.0)
        return Effect(Method.sign_flips, "log_likelihood", self.value, low, high, p, self.n, self.n, counts)

    def interval_at(self, alpha: float) -> tuple[float, float]:
        """Return the interval at a level."""
        error, bend, _, freedom = self.uncertainty
        return ratios.cautious_interval(self.value, error, bend, freedom, alpha)

    def p_at(self, value: float) -> float:
        """Return the two-sided p against a true weighted mean."""
        error, bend, _, freedom = self.uncertainty
        by_unit = [share / total for share, total in zip(self.shares, self.totals, strict=True)]
        differences = [
            weight * (difference - value * size)
            for task, weight in zip(self.tasks, by_unit, strict=True)
            for difference, size in zip(task.differences, task.sizes, strict=True)
        ]
        return ratios.cautious_p(differences, self.value - value, error, bend, freedom)

    def detects(self, level: float) -> float | None:
        """Return the smallest true difference that is detected."""
        # With its own error: where one task of few texts has most of the spread, these texts seldom
        # show all of it.
        error, bend, tails, freedom = self.uncertainty
        texts = freedom + 1
        return ratios.detectable_shift(error, texts, level, bend=bend, tails=tails, seen=texts)

    @cached_property
    def _can_plan(self) -> bool:
        error, _, _, freedom = self.uncertainty
        return can_plan_from(freedom) and of_few_texts(self.tasks, self.shares) <= MAX_UNKNOWN * error**2

    @property
    def can_plan(self) -> bool:
        """Whether tasks with enough texts have most of the spread."""
        return self._can_plan

    def needs(self, margin: float, level: float, power: float = POWER) -> int | None:
        """Return the texts over all tasks that decide about a margin."""
        error, bend, tails, freedom = self.uncertainty
        alike = samples_to_detect(error, freedom + 1, margin, level, power, bend, tails, upward=True)
        return None if alike is None else math.ceil(alike * self.n / (freedom + 1))
