"""Flips of means' signs: shares of right answers, in families of questions or of several answers to
each question."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

from runner_compare.statistics import ratios
from runner_compare.statistics.effects import Between, Effect, Method, Test, verdict_counts
from runner_compare.statistics.mean_plans import detectable_loss, questions_for_margin
from runner_compare.statistics.paired_means import MeanDifference
from runner_compare.statistics.planning import can_plan_from, spread_factors
from runner_compare.statistics.stats import POWER

MAX_TAILS = 12.0  # kurtosis of clusters up to which the observed ones bound what a plan needs


@dataclass(frozen=True)
class MeanFlips(Test):
    """The difference of each question's mean verdict, of so many samples each."""

    differences: Sequence[float]
    clusters: Sequence[Hashable] | None = None
    by: str = ""  # the field that the questions of a cluster share
    samples: int = 1
    baseline_correct: int = 0
    is_strict: bool = False  # whether a kind of cluster that is all lost always has to be excluded

    knows_power = has_worst_case = True

    @cached_property
    def mean(self) -> MeanDifference:
        """The mean difference, over clusters."""
        return MeanDifference.of(self.differences, self.clusters, self.is_strict)

    def compare(self) -> Effect:
        """Compute the effect."""
        mean, count = self.mean, len(self.mean.sums)
        wins = sum(difference > 0 for difference in self.differences)
        losses = sum(difference < 0 for difference in self.differences)
        grouping = f", mean of {self.samples} samples" if self.samples > 1 else ""
        if self.by:
            grouping += f", in {count:,} families by {self.by}"
        counts = verdict_counts(wins, losses, mean.n - wins - losses, self.baseline_correct) | {
            "clusters": count if self.by else None,
            "samples": self.samples,
            "grouping": grouping,
            "few": mean.is_few,
        }
        low, high = mean.interval()
        return Effect(
            Method.mean_flips, "accuracy", mean.difference, low, high, mean.p, mean.n, mean.n, counts
        )

    def interval_at(self, alpha: float) -> tuple[float, float]:
        """Return the interval at another level."""
        return self.mean.interval(alpha)

    def p_at(self, value: float) -> float:
        """Return the two-sided p against a true difference."""
        return self.mean.p_at(value)

    def detects(self, level: float) -> float | None:
        """Return the smallest loss, spread evenly, that is detected."""
        return detectable_loss(self.mean.sums, self.mean.sizes, self.samples, False, level, self.is_strict)

    def detects_at_worst(self, level: float) -> float | None:
        """Return the smallest loss of whole clusters that is detected."""
        return detectable_loss(self.mean.sums, self.mean.sizes, self.samples, True, level, self.is_strict)

    @property
    def can_plan(self) -> bool:
        """Whether its clusters say enough about how they differ."""
        return can_plan_from(self.mean.clusters_worth)

    def needs(self, margin: float, level: float, power: float = POWER) -> int | None:
        """Return the questions that decide about a margin."""
        return questions_for_margin(self.mean.sums, self.mean.sizes, margin, level, power, self.is_strict)

    def needs_between(self, margin: float, level: float, power: float = POWER) -> Between:
        """Return the fewest and the most questions that decide about a margin, by the interval of the spread."""
        sums, sizes = self.mean.sums, self.mean.sizes
        tails = ratios.kurtosis(sums, sizes)
        fewest, most = (
            None
            if factor is None
            else questions_for_margin(
                tuple(factor * unit_sum for unit_sum in sums), sizes, margin, level, power, self.is_strict
            )
            for factor in spread_factors(tails, len(sums), MAX_TAILS)
        )
        return fewest, most
