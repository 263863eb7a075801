"""Sign-flip test of per-question accuracies, for clustered questions or several answers per
question.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

from runner_compare.statistics import ratios
from runner_compare.statistics.effects import Effect, Method, SampleSizeRange, Test, effect_verdict_counts
from runner_compare.statistics.mean_plans import find_detectable_mean_loss, plan_questions_for_margin
from runner_compare.statistics.paired_means import MeanDifference
from runner_compare.statistics.planning import compute_standard_error_bound_factors, has_enough_units_to_plan
from runner_compare.statistics.stats import POWER

MAX_TAILS = 12.0  # kurtosis of clusters up to which the observed ones bound what a plan needs


@dataclass(frozen=True)
class MeanFlipTest(Test):
    """Sign-flip test of differences in accuracy per question."""

    differences: Sequence[float]
    clusters: Sequence[Hashable] | None = None
    by: str = ""  # the field that the questions of a cluster share
    samples: int = 1
    baseline_correct: int = 0
    is_strict: bool = False  # whether a kind of cluster that is all lost always has to be excluded

    knows_power = has_worst_case = True

    @cached_property
    def mean(self) -> MeanDifference:
        return MeanDifference.from_differences(self.differences, self.clusters, self.is_strict)

    def compute_effect(self) -> Effect:
        mean, count = self.mean, len(self.mean.sums)
        wins = sum(difference > 0 for difference in self.differences)
        losses = sum(difference < 0 for difference in self.differences)
        grouping = f", mean of {self.samples} samples" if self.samples > 1 else ""
        if self.by:
            grouping += f", in {count:,} clusters by {self.by}"
        counts = effect_verdict_counts(wins, losses, mean.n - wins - losses, self.baseline_correct) | {
            "clusters": count if self.by else None,
            "samples": self.samples,
            "grouping": grouping,
            "few": mean.has_few_clusters,
        }
        low, high = mean.compute_interval()
        return Effect(
            Method.mean_flips, "accuracy", mean.difference, low, high, mean.p, mean.n, mean.n, counts
        )

    def compute_interval_at_level(self, alpha: float) -> tuple[float, float]:
        return self.mean.compute_interval(alpha)

    def compute_p_value(self, null_value: float) -> float:
        return self.mean.compute_p_value_against(null_value)

    def detectable_difference(self, level: float) -> float | None:
        return find_detectable_mean_loss(
            self.mean.sums, self.mean.sizes, self.samples, False, level, self.is_strict
        )

    def find_worst_case_detectable(self, level: float) -> float | None:
        return find_detectable_mean_loss(
            self.mean.sums, self.mean.sizes, self.samples, True, level, self.is_strict
        )

    @property
    def can_plan(self) -> bool:
        return has_enough_units_to_plan(self.mean.clusters_worth)

    def plan_sample_size_for_margin(self, margin: float, level: float, power: float = POWER) -> int | None:
        return plan_questions_for_margin(
            self.mean.sums, self.mean.sizes, margin, level, power, self.is_strict
        )

    def estimate_sample_size_interval(
        self, margin: float, level: float, power: float = POWER
    ) -> SampleSizeRange:
        """Return the 95 % interval of the number of questions needed to decide about a margin.

        The range follows from the confidence interval of the spread.
        """
        sums, sizes = self.mean.sums, self.mean.sizes
        tails = ratios.kurtosis(sums, sizes)
        fewest, most = (
            None
            if factor is None
            else plan_questions_for_margin(
                tuple(factor * unit_sum for unit_sum in sums), sizes, margin, level, power, self.is_strict
            )
            for factor in compute_standard_error_bound_factors(tails, len(sums), MAX_TAILS)
        )
        return fewest, most
