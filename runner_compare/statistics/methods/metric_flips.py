"""Sign-flip test of the difference in a per-question metric, such as F1 or answer length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from runner_compare.metrics import BetterDirection
from runner_compare.statistics import ratios, stats
from runner_compare.statistics.effects import Effect, Method, Test
from runner_compare.statistics.methods.sign_flips import SignFlipTest
from runner_compare.statistics.stats import ALPHA

# questions: of fewer, the sizes of the observed differences say too little (bench/compare/numbers_null.py)
MIN_DIFFERING = 20


@dataclass(frozen=True)
class MetricFlipTest(Test):
    """Sign-flip test of differences of a per-question metric, given as sums over questions.

    Where few questions differ, the next one may differ by the whole range of the metric, and
    the observed differences do not show that: then the differences also count by their signs
    alone, each as large as that range, and the interval joins both. The detectable difference
    is then unknown: it depends on how many more questions differ.
    """

    name: str
    differences: Sequence[float]
    sizes: Sequence[float]
    better: BetterDirection
    values: Sequence[float]
    baseline_values: Sequence[float]
    grouping: str = ""  # what the sums are over, in words

    has_worst_case = True

    @cached_property
    def sign_flip_test(self) -> SignFlipTest:
        """Sign-flip test of the differences by size."""
        return SignFlipTest(self.differences, self.sizes, self.name)

    @cached_property
    def value_range(self) -> tuple[float, float]:
        """Smallest and largest metric value of both runs."""
        return min(*self.values, *self.baseline_values), max(*self.values, *self.baseline_values)

    @cached_property
    def wins(self) -> int:
        """Number of sums in which this run's metric is higher."""
        return sum(difference > 0 for difference in self.differences)

    @cached_property
    def losses(self) -> int:
        """Number of sums in which this run's metric is lower."""
        return sum(difference < 0 for difference in self.differences)

    @cached_property
    def max_mean_difference(self) -> float:
        """Mean difference if every sum differed by the whole value range."""
        least, most = self.value_range
        return (most - least) * max(self.sizes) * len(self.sizes) / math.fsum(self.sizes)

    @property
    def few_differ(self) -> bool:
        """Whether too few questions differ to estimate how large differences are."""
        return self.wins + self.losses < MIN_DIFFERING

    def compute_effect(self) -> Effect:
        by_flips, n = self.sign_flip_test.effect, len(self.sizes)
        low, high = self._join_sign_interval(by_flips.low, by_flips.high, ALPHA)
        mean, baseline_mean = (math.fsum(side) / len(side) for side in (self.values, self.baseline_values))
        counts = {
            "error": self.sign_flip_test.standard_error,
            "questions": int(sum(self.sizes)),
            "unit": self.name,
        }
        counts |= {"mean": mean, "baseline_mean": baseline_mean, "grouping": self.grouping}
        return Effect(
            Method.number_flips,
            f"number:{self.name}",
            by_flips.value,
            low,
            high,
            self.p_value_at(0.0),
            n,
            n,
            counts,
            better=self.better,
        )

    def interval_at_level(self, alpha: float) -> tuple[float, float]:
        return self._join_sign_interval(*self.sign_flip_test.interval_at_level(alpha), alpha)

    def _join_sign_interval(self, low: float, high: float, alpha: float) -> tuple[float, float]:
        if not self.few_differ or not self.max_mean_difference:
            return low, high
        n = len(self.sizes)
        by_signs = stats.paired_difference_interval(self.wins, self.losses, n, alpha)
        return min(low, self.max_mean_difference * by_signs[0]), max(
            high, self.max_mean_difference * by_signs[1]
        )

    def p_value_at(self, null_value: float) -> float:
        """Return the two-sided p-value against a null difference of the means."""
        p = self.sign_flip_test.p_value_at(null_value)
        if not self.few_differ or not self.max_mean_difference:
            return p
        share = max(-1.0, min(1.0, null_value / self.max_mean_difference))
        return max(p, stats.paired_difference_p_value(self.wins, self.losses, len(self.sizes), share))

    @property
    def knows_power(self) -> bool:
        """Whether enough questions differ to estimate how large differences are."""
        return not self.few_differ

    def detectable_difference(self, level: float) -> float | None:
        return None if self.few_differ else self.sign_flip_test.detectable_difference(level)

    def worst_case_detectable(self, level: float) -> float | None:
        """Return the smallest difference that is detected if a few questions lose all that they
        can lose.
        """
        evenly = self.detectable_difference(level)
        if evenly is None:
            return None
        return max(
            evenly,
            ratios.detectable_concentrated_loss(
                self.sign_flip_test.standard_error, len(self.sizes), self._mean_total_loss, level
            ),
        )

    @cached_property
    def _mean_total_loss(self) -> float:
        """Mean loss of questions that drop to the worst value, weighted by how much each can lose."""
        least, most = self.value_range
        if self.better is BetterDirection.lower:
            lost = [most - value for value in self.baseline_values]
        else:
            lost = [value - least for value in self.baseline_values]
        loss = math.fsum(value**2 for value in lost) / math.fsum(lost) if any(lost) else 0.0
        return loss * (len(self.sizes) / math.fsum(self.sizes))
