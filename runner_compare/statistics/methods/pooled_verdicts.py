"""Verdicts of several tasks as one difference: flips with weights where every task counts the
same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runner_compare.statistics.effects import Effect, Method, Test
from runner_compare.statistics.methods.mcnemar import McNemar
from runner_compare.statistics.pooling import (
    FINEST,
    PairedVerdicts,
    Weights,
    detectable_mean_difference,
    mean_difference,
    mean_difference_interval,
    mean_difference_p,
    mean_p,
    questions_for_mean,
)
from runner_compare.statistics.stats import POWER


def pooled_accuracies(tasks: Sequence[PairedVerdicts], weights: Weights, finest: int = FINEST) -> Test:
    """Return the test of the paired accuracies of several tasks, which have no question in
    common."""
    assert tasks
    assert all(task.n > 0 for task in tasks)
    return by_questions(tasks) if weights is Weights.questions else WeightedFlips(tasks, finest)


def by_questions(tasks: Sequence[PairedVerdicts]) -> McNemar:
    """Return the test of all questions together."""
    wins, losses, n, correct = (
        sum(getattr(task, name) for task in tasks) for name in ("wins", "losses", "n", "baseline_correct")
    )
    return McNemar(wins, losses, n, correct, tasks=len(tasks))


@dataclass(frozen=True)
class WeightedFlips(Test):
    """The verdicts of tasks of which each counts the same; sums of weights up to `finest` are
    exact."""

    tasks: Sequence[PairedVerdicts]
    finest: int = FINEST

    knows_power = can_plan = True

    def compare(self) -> Effect:
        """Compute the effect."""
        low, high = mean_difference_interval(self.tasks)
        counts = by_questions(self.tasks).effect.counts
        n = sum(task.n for task in self.tasks)
        value, p = mean_difference(self.tasks), mean_p(self.tasks, self.finest)
        return Effect(Method.weighted_flips, "accuracy", value, low, high, p, n, n, counts)

    def interval_at(self, alpha: float) -> tuple[float, float]:
        """Return the interval at another level."""
        return mean_difference_interval(self.tasks, alpha)

    def p_at(self, value: float) -> float:
        """Return the two-sided p against a true mean difference."""
        return mean_difference_p(self.tasks, value)

    def detects(self, level: float) -> float | None:
        """Return the smallest true difference, the same in all tasks, that is detected."""
        return detectable_mean_difference(self.tasks, level)

    def needs(self, margin: float, level: float, power: float = POWER) -> int | None:
        """Return the questions over all tasks that decide about a margin."""
        return questions_for_mean(self.tasks, margin, level, power)
