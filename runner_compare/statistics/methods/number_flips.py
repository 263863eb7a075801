"""Flips of signs of any number's differences: a number that each question has, such as F1 or a
length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from runner_compare.metrics import Better
from runner_compare.statistics import ratios, stats
from runner_compare.statistics.effects import Effect, Method, Test
from runner_compare.statistics.methods.sign_flips import SignFlips
from runner_compare.statistics.stats import ALPHA

# questions: of fewer, the sizes of the observed differences say too little (bench/compare/numbers_null.py)
MIN_DIFFERING = 20


@dataclass(frozen=True)
class NumberFlips(Test):
    """A number that each question has: sums of its differences over so many questions each, and
    both sides' numbers.

    Where few questions differ, the next one may differ by the whole range of the numbers, and the
    observed differences do not show that: then the differences also count by their signs alone,
    each as large as that range, and the interval joins both. What could be detected is then not
    known: it depends on how many more questions differ.
    """

    name: str
    differences: Sequence[float]
    sizes: Sequence[float]
    better: Better
    values: Sequence[float]
    baseline_values: Sequence[float]
    grouping: str = ""  # what the sums are over, in words

    has_worst_case = True

    @cached_property
    def by_flips(self) -> SignFlips:
        """The test of the differences by their sizes."""
        return SignFlips(self.differences, self.sizes, self.name)

    @cached_property
    def ends(self) -> tuple[float, float]:
        """The smallest and the largest number of both sides."""
        return min(*self.values, *self.baseline_values), max(*self.values, *self.baseline_values)

    @cached_property
    def wins(self) -> int:
        """How many sums are higher."""
        return sum(difference > 0 for difference in self.differences)

    @cached_property
    def losses(self) -> int:
        """How many sums are lower."""
        return sum(difference < 0 for difference in self.differences)

    @cached_property
    def widest(self) -> float:
        """By how much the mean would differ if all sums differed by the whole range."""
        least, most = self.ends
        return (most - least) * max(self.sizes) * len(self.sizes) / math.fsum(self.sizes)

    @property
    def few_differ(self) -> bool:
        """Whether too few questions differ to show how large differences are."""
        return self.wins + self.losses < MIN_DIFFERING

    def compare(self) -> Effect:
        """Compute the effect."""
        by_flips, n = self.by_flips.effect, len(self.sizes)
        low, high = self._joined(by_flips.low, by_flips.high, ALPHA)
        mean, baseline_mean = (math.fsum(side) / len(side) for side in (self.values, self.baseline_values))
        counts = {"error": self.by_flips.error, "questions": int(sum(self.sizes)), "unit": self.name}
        counts |= {"mean": mean, "baseline_mean": baseline_mean, "grouping": self.grouping}
        return Effect(
            Method.number_flips,
            f"number:{self.name}",
            by_flips.value,
            low,
            high,
            self.p_at(0.0),
            n,
            n,
            counts,
            better=self.better,
        )

    def interval_at(self, alpha: float) -> tuple[float, float]:
        """Return the interval at another level."""
        return self._joined(*self.by_flips.interval_at(alpha), alpha)

    def _joined(self, low: float, high: float, alpha: float) -> tuple[float, float]:
        if not self.few_differ or not self.widest:
            return low, high
        n = len(self.sizes)
        by_signs = stats.paired_difference_interval(self.wins, self.losses, n, alpha)
        return min(low, self.widest * by_signs[0]), max(high, self.widest * by_signs[1])

    def p_at(self, value: float) -> float:
        """Return the two-sided p against a true difference of the means."""
        p = self.by_flips.p_at(value)
        if not self.few_differ or not self.widest:
            return p
        share = max(-1.0, min(1.0, value / self.widest))
        return max(p, stats.paired_difference_p(self.wins, self.losses, len(self.sizes), share))

    @property
    def knows_power(self) -> bool:
        """Whether enough questions differ to show how large differences are."""
        return not self.few_differ

    def detects(self, level: float) -> float | None:
        """Return the smallest true difference that is detected."""
        return None if self.few_differ else self.by_flips.detects(level)

    def detects_at_worst(self, level: float) -> float | None:
        """Return the smallest difference that is detected where a few questions lose all they
        can."""
        evenly = self.detects(level)
        if evenly is None:
            return None
        return max(evenly, ratios.detectable_loss(self.by_flips.error, len(self.sizes), self._loss, level))

    @cached_property
    def _loss(self) -> float:
        """What a question loses that loses all, weighted by how much there is to lose."""
        least, most = self.ends
        if self.better is Better.lower:
            lost = [most - value for value in self.baseline_values]
        else:
            lost = [value - least for value in self.baseline_values]
        loss = math.fsum(value**2 for value in lost) / math.fsum(lost) if any(lost) else 0.0
        return loss * (len(self.sizes) / math.fsum(self.sizes))
