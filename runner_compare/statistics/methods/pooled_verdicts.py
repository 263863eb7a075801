"""Test of paired verdicts, pooled over several tasks with equal weight per question or per task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runner_compare.statistics.effects import Effect, Method, Test
from runner_compare.statistics.methods.mcnemar import McNemarTest
from runner_compare.statistics.pooling import (
    FINEST,
    PairedVerdicts,
    PoolingWeights,
    compute_mean_difference_interval,
    compute_mean_difference_p_value,
    compute_p_value_by_interval_inversion,
    find_detectable_mean_difference,
    mean_task_difference,
    plan_pooled_questions_for_margin,
)
from runner_compare.statistics.stats import POWER


def create_pooled_test(
    tasks: Sequence[PairedVerdicts], weights: PoolingWeights, max_units: int = FINEST
) -> Test:
    """Create the pooled test of several tasks. The tasks must not share questions."""
    assert tasks
    assert all(task.n > 0 for task in tasks)
    return (
        pool_by_questions(tasks)
        if weights is PoolingWeights.questions
        else WeightedFlipTest(tasks, max_units)
    )


def pool_by_questions(tasks: Sequence[PairedVerdicts]) -> McNemarTest:
    wins, losses, n, correct = (
        sum(getattr(task, name) for task in tasks) for name in ("wins", "losses", "n", "baseline_correct")
    )
    return McNemarTest(wins, losses, n, correct, tasks=len(tasks))


@dataclass(frozen=True)
class WeightedFlipTest(Test):
    """Sign-flip test of verdicts in which every task has equal weight.

    Sums of weights up to `finest` units are exact.
    """

    tasks: Sequence[PairedVerdicts]
    finest: int = FINEST

    knows_power = can_plan = True

    def compute_effect(self) -> Effect:
        low, high = compute_mean_difference_interval(self.tasks)
        counts = pool_by_questions(self.tasks).effect.counts
        n = sum(task.n for task in self.tasks)
        value, p = mean_task_difference(self.tasks), compute_mean_difference_p_value(self.tasks, self.finest)
        return Effect(Method.weighted_flips, "accuracy", value, low, high, p, n, n, counts)

    def compute_interval_at_level(self, alpha: float) -> tuple[float, float]:
        return compute_mean_difference_interval(self.tasks, alpha)

    def compute_p_value(self, null_value: float) -> float:
        return compute_p_value_by_interval_inversion(self.tasks, null_value)

    def detectable_difference(self, level: float) -> float | None:
        return find_detectable_mean_difference(self.tasks, level)

    def plan_sample_size_for_margin(self, margin: float, level: float, power: float = POWER) -> int | None:
        return plan_pooled_questions_for_margin(self.tasks, margin, level, power)
