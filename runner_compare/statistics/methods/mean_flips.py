"""Sign-flip test of per-question accuracies, for clustered questions or several answers per
question.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

from runner_compare.statistics import ratios
from runner_compare.statistics.effects import Between, Effect, Method, Test, effect_verdict_counts
from runner_compare.statistics.mean_plans import detectable_mean_loss, questions_needed_for_margin
from runner_compare.statistics.paired_means import MeanDifference
from runner_compare.statistics.planning import has_enough_units_to_plan, standard_error_factors
from runner_compare.statistics.stats import POWER

MAX_TAILS = 12.0  # kurtosis of clusters up to which the observed ones bound what a plan needs


@dataclass(frozen=True)
class MeanFlipTest(Test):
    """Sign-flip test of the difference of each question's accuracy over its samples."""

    differences: Sequence[float]
    clusters: Sequence[Hashable] | None = None
    by: str = ""  # the field that the questions of a cluster share
    samples: int = 1
    baseline_correct: int = 0
    is_strict: bool = False  # whether a kind of cluster that is all lost always has to be excluded

    knows_power = has_worst_case = True

    @cached_property
    def mean(self) -> MeanDifference:
        """Mean difference over clusters, with test and interval."""
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
        low, high = mean.interval()
        return Effect(
            Method.mean_flips, "accuracy", mean.difference, low, high, mean.p, mean.n, mean.n, counts
        )

    def interval_at_level(self, alpha: float) -> tuple[float, float]:
        return self.mean.interval(alpha)

    def p_value_at(self, null_value: float) -> float:
        """Return the two-sided p-value against a null difference."""
        return self.mean.p_value_at(null_value)

    def detectable_difference(self, level: float) -> float | None:
        """Return the smallest evenly spread loss that is detected."""
        return detectable_mean_loss(
            self.mean.sums, self.mean.sizes, self.samples, False, level, self.is_strict
        )

    def worst_case_detectable(self, level: float) -> float | None:
        """Return the smallest loss of whole clusters that is detected."""
        return detectable_mean_loss(
            self.mean.sums, self.mean.sizes, self.samples, True, level, self.is_strict
        )

    @property
    def can_plan(self) -> bool:
        """Whether there are enough clusters to estimate a sample size."""
        return has_enough_units_to_plan(self.mean.clusters_worth)

    def sample_size_for_margin(self, margin: float, level: float, power: float = POWER) -> int | None:
        return questions_needed_for_margin(
            self.mean.sums, self.mean.sizes, margin, level, power, self.is_strict
        )

    def sample_size_interval(self, margin: float, level: float, power: float = POWER) -> Between:
        """Return the range of sample sizes for a margin, by the interval of the spread."""
        sums, sizes = self.mean.sums, self.mean.sizes
        tails = ratios.kurtosis(sums, sizes)
        fewest, most = (
            None
            if factor is None
            else questions_needed_for_margin(
                tuple(factor * unit_sum for unit_sum in sums), sizes, margin, level, power, self.is_strict
            )
            for factor in standard_error_factors(tails, len(sums), MAX_TAILS)
        )
        return fewest, most
