"""Sign-flip test of the log-likelihood differences of two runs on the same texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from runner_compare.statistics import ratios
from runner_compare.statistics.effects import Between, Effect, Method, Test
from runner_compare.statistics.planning import samples_needed_to_detect, standard_error_factors
from runner_compare.statistics.stats import POWER

MAX_TAILS = 4.5  # kurtosis up to which the observed tails bound what a plan needs


@dataclass(frozen=True)
class SignFlipTest(Test):
    """Sign-flip test of each text's log-likelihood difference, in nats, with its number of units."""

    differences: Sequence[float]
    sizes: Sequence[float]
    unit: str

    knows_power = can_plan = can_plan_detection = True

    @cached_property
    def standard_error(self) -> float:
        """Standard error of the mean difference per unit."""
        return ratios.ratio_standard_error(self.differences, self.sizes)

    @cached_property
    def scaled_skewness(self) -> float:
        """Skewness over texts, divided by the square root of their number."""
        return ratios.skewness(self.differences, self.sizes) / math.sqrt(len(self.differences))

    @cached_property
    def kurtosis(self) -> float:
        """Kurtosis over texts."""
        return ratios.kurtosis(self.differences, self.sizes)

    def compute_effect(self) -> Effect:
        n = len(self.differences)
        return Effect(
            Method.sign_flips,
            "log_likelihood",
            ratios.ratio_of_sums(self.differences, self.sizes),
            *ratios.paired_ratio_interval(self.differences, self.sizes),
            ratios.paired_p_value(self.differences, self.sizes),
            n,
            n,
            {"error": self.standard_error, "size": int(sum(self.sizes)), "unit": self.unit},
        )

    def interval_at_level(self, alpha: float) -> tuple[float, float]:
        return ratios.paired_ratio_interval(self.differences, self.sizes, alpha)

    def p_value_at(self, null_value: float) -> float:
        """Return the two-sided p-value against a null difference per unit."""
        pairs = zip(self.differences, self.sizes, strict=True)
        return ratios.paired_p_value(
            [difference - null_value * size for difference, size in pairs], self.sizes
        )

    def detectable_difference(self, level: float) -> float | None:
        """Return the smallest true difference that the test's number of texts detects."""
        return ratios.detectable_ratio_difference(
            self.standard_error,
            len(self.differences),
            level,
            scaled_skewness=self.scaled_skewness,
            kurtosis=self.kurtosis,
        )

    def sample_size_for_margin(self, margin: float, level: float, power: float = POWER) -> int | None:
        """Return the number of texts that decides about a margin, by excluding a loss of the margin."""
        return self._sample_size(margin, level, power, upward=True)

    def sample_size_to_detect(self, difference: float, level: float, power: float = POWER) -> int | None:
        return self._sample_size(difference, level, power)

    def sample_size_interval(self, margin: float, level: float, power: float = POWER) -> Between:
        return self._sample_size_range(margin, level, power, upward=True)

    def detection_size_interval(self, difference: float, level: float, power: float = POWER) -> Between:
        return self._sample_size_range(difference, level, power)

    def _sample_size_range(
        self, shift: float, level: float, power: float, upward: bool | None = None
    ) -> Between:
        low, high = standard_error_factors(self.kurtosis, len(self.differences), MAX_TAILS)
        most = None if high is None else self._sample_size(shift, level, power, upward, high)
        return self._sample_size(shift, level, power, upward, low), most

    def _sample_size(
        self, shift: float, level: float, power: float, upward: bool | None = None, factor: float = 1.0
    ) -> int | None:
        n, error = len(self.differences), factor * self.standard_error
        return samples_needed_to_detect(
            error,
            n,
            shift,
            level,
            power,
            scaled_skewness=self.scaled_skewness,
            kurtosis=self.kurtosis,
            upward=upward,
        )
