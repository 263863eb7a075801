"""Flips of signs of log-likelihoods' differences: the same texts, read by both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from runner_compare.statistics import ratios
from runner_compare.statistics.effects import Between, Effect, Method, Test
from runner_compare.statistics.planning import samples_to_detect, spread_factors
from runner_compare.statistics.stats import POWER

MAX_TAILS = 4.5  # kurtosis up to which the observed tails bound what a plan needs


@dataclass(frozen=True)
class SignFlips(Test):
    """The difference of each text's log-likelihood in nats, and how many units each text has."""

    differences: Sequence[float]
    sizes: Sequence[float]
    unit: str

    knows_power = can_plan = can_plan_detection = True

    @cached_property
    def error(self) -> float:
        """The standard error of the difference per unit."""
        return ratios.ratio_error(self.differences, self.sizes)

    @cached_property
    def bend(self) -> float:
        """The skewness of the texts, over the root of their number."""
        return ratios.skewness(self.differences, self.sizes) / math.sqrt(len(self.differences))

    @cached_property
    def tails(self) -> float:
        """The kurtosis of the texts."""
        return ratios.kurtosis(self.differences, self.sizes)

    def compare(self) -> Effect:
        """Compute the effect."""
        n = len(self.differences)
        return Effect(
            Method.sign_flips,
            "log_likelihood",
            ratios.ratio(self.differences, self.sizes),
            *ratios.paired_interval(self.differences, self.sizes),
            ratios.paired_p(self.differences, self.sizes),
            n,
            n,
            {"error": self.error, "size": int(sum(self.sizes)), "unit": self.unit},
        )

    def interval_at(self, alpha: float) -> tuple[float, float]:
        """Return the interval at another level."""
        return ratios.paired_interval(self.differences, self.sizes, alpha)

    def p_at(self, value: float) -> float:
        """Return the two-sided p against a true difference per unit."""
        pairs = zip(self.differences, self.sizes, strict=True)
        return ratios.paired_p([difference - value * size for difference, size in pairs], self.sizes)

    def detects(self, level: float) -> float | None:
        """Return the smallest true difference that so many texts detect."""
        return ratios.detectable_shift(
            self.error, len(self.differences), level, bend=self.bend, tails=self.tails
        )

    def needs(self, margin: float, level: float, power: float = POWER) -> int | None:
        """Return the texts that decide about a margin: a difference that a test has to exclude."""
        return self._samples(margin, level, power, upward=True)

    def needs_to_detect(self, difference: float, level: float, power: float = POWER) -> int | None:
        """Return the texts that detect a difference."""
        return self._samples(difference, level, power)

    def needs_between(self, margin: float, level: float, power: float = POWER) -> Between:
        """Return the fewest and the most texts that decide about a margin."""
        return self._samples_between(margin, level, power, upward=True)

    def needs_to_detect_between(self, difference: float, level: float, power: float = POWER) -> Between:
        """Return the fewest and the most texts that detect a difference."""
        return self._samples_between(difference, level, power)

    def _samples_between(
        self, shift: float, level: float, power: float, upward: bool | None = None
    ) -> Between:
        low, high = spread_factors(self.tails, len(self.differences), MAX_TAILS)
        most = None if high is None else self._samples(shift, level, power, upward, high)
        return self._samples(shift, level, power, upward, low), most

    def _samples(
        self, shift: float, level: float, power: float, upward: bool | None = None, factor: float = 1.0
    ) -> int | None:
        n, error = len(self.differences), factor * self.error
        return samples_to_detect(
            error, n, shift, level, power, bend=self.bend, tails=self.tails, upward=upward
        )
