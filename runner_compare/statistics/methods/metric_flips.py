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
    """Sign-flip test of differences in a per-question metric, such as F1 or answer length.

    If few questions differ, the next one may differ by the whole range of the metric, which the
    observed differences do not show. Then the differences also count by their signs alone, each
    as large as that range, and the interval joins both. The detectable difference is then
    unknown: it depends on how many more questions differ.
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
        return SignFlipTest(self.differences, self.sizes, self.name)

    @cached_property
    def value_range(self) -> tuple[float, float]:
        """Smallest and largest metric value of both runs."""
        return min(*self.values, *self.baseline_values), max(*self.values, *self.baseline_values)

    @cached_property
    def wins(self) -> int:
        """Number of questions or clusters in which this run's metric is higher than the baseline's."""
        return sum(difference > 0 for difference in self.differences)

    @cached_property
    def losses(self) -> int:
        """Number of questions or clusters in which this run's metric is lower than the baseline's."""
        return sum(difference < 0 for difference in self.differences)

    @cached_property
    def largest_possible_mean_difference(self) -> float:
        """Largest possible mean difference, if every question differs by the full metric range."""
        least, most = self.value_range
        return (most - least) * max(self.sizes) * len(self.sizes) / math.fsum(self.sizes)

    @property
    def few_differ(self) -> bool:
        """Whether too few questions differ to estimate the size of differences."""
        return self.wins + self.losses < MIN_DIFFERING

    def compute_effect(self) -> Effect:
        by_flips, n = self.sign_flip_test.effect, len(self.sizes)
        low, high = self._widen_interval_by_sign_test(by_flips.low, by_flips.high, ALPHA)
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
            self.compute_p_value(0.0),
            n,
            n,
            counts,
            better=self.better,
        )

    def compute_interval_at_level(self, alpha: float) -> tuple[float, float]:
        return self._widen_interval_by_sign_test(*self.sign_flip_test.compute_interval_at_level(alpha), alpha)

    def _widen_interval_by_sign_test(self, low: float, high: float, alpha: float) -> tuple[float, float]:
        if not self.few_differ or not self.largest_possible_mean_difference:
            return low, high
        n = len(self.sizes)
        by_signs = stats.compute_paired_difference_interval(self.wins, self.losses, n, alpha)
        return min(low, self.largest_possible_mean_difference * by_signs[0]), max(
            high, self.largest_possible_mean_difference * by_signs[1]
        )

    def compute_p_value(self, null_value: float) -> float:
        p = self.sign_flip_test.compute_p_value(null_value)
        if not self.few_differ or not self.largest_possible_mean_difference:
            return p
        share = max(-1.0, min(1.0, null_value / self.largest_possible_mean_difference))
        return max(p, stats.compute_paired_difference_p_value(self.wins, self.losses, len(self.sizes), share))

    @property
    def knows_power(self) -> bool:
        return not self.few_differ

    def detectable_difference(self, level: float) -> float | None:
        return None if self.few_differ else self.sign_flip_test.detectable_difference(level)

    def find_worst_case_detectable(self, level: float) -> float | None:
        evenly = self.detectable_difference(level)
        if evenly is None:
            return None
        return max(
            evenly,
            ratios.find_detectable_concentrated_loss(
                self.sign_flip_test.standard_error, len(self.sizes), self._mean_loss_at_worst_value, level
            ),
        )

    @cached_property
    def _mean_loss_at_worst_value(self) -> float:
        """Mean loss if questions drop to the worst value. Questions with a larger loss have more weight."""
        least, most = self.value_range
        if self.better is BetterDirection.lower:
            lost = [most - value for value in self.baseline_values]
        else:
            lost = [value - least for value in self.baseline_values]
        loss = math.fsum(value**2 for value in lost) / math.fsum(lost) if any(lost) else 0.0
        return loss * (len(self.sizes) / math.fsum(self.sizes))
