"""Sign-flip test of the log-likelihood differences of two runs on the same texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from runner_compare.statistics import ratios
from runner_compare.statistics.effects import Effect, Method, SampleSizeRange, Test
from runner_compare.statistics.planning import (
    compute_samples_to_detect_shift,
    compute_standard_error_bound_factors,
)
from runner_compare.statistics.stats import POWER

MAX_TAILS = 4.5  # kurtosis up to which the observed tails bound what a plan needs


@dataclass(frozen=True)
class SignFlipTest(Test):
    """Sign-flip test of log-likelihood differences per document, in nats."""

    differences: Sequence[float]
    sizes: Sequence[float]
    unit: str

    knows_power = can_plan = can_plan_detection = True

    @cached_property
    def standard_error(self) -> float:
        """Standard error of the mean difference per unit."""
        return ratios.compute_ratio_standard_error(self.differences, self.sizes)

    @cached_property
    def scaled_skewness(self) -> float:
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
            *ratios.compute_paired_ratio_interval(self.differences, self.sizes),
            ratios.compute_paired_p_value(self.differences, self.sizes),
            n,
            n,
            {"error": self.standard_error, "size": int(sum(self.sizes)), "unit": self.unit},
        )

    def compute_interval_at_level(self, alpha: float) -> tuple[float, float]:
        return ratios.compute_paired_ratio_interval(self.differences, self.sizes, alpha)

    def compute_p_value(self, null_value: float) -> float:
        pairs = zip(self.differences, self.sizes, strict=True)
        return ratios.compute_paired_p_value(
            [difference - null_value * size for difference, size in pairs], self.sizes
        )

    def detectable_difference(self, level: float) -> float | None:
        return ratios.find_detectable_ratio_difference(
            self.standard_error,
            len(self.differences),
            level,
            scaled_skewness=self.scaled_skewness,
            kurtosis=self.kurtosis,
        )

    def plan_sample_size_for_margin(self, margin: float, level: float, power: float = POWER) -> int | None:
        return self._sample_size(margin, level, power, upward=True)

    def plan_sample_size_to_detect(self, difference: float, level: float, power: float = POWER) -> int | None:
        return self._sample_size(difference, level, power)

    def estimate_sample_size_interval(
        self, margin: float, level: float, power: float = POWER
    ) -> SampleSizeRange:
        return self._compute_sample_size_range(margin, level, power, is_upward=True)

    def estimate_detection_size_interval(
        self, difference: float, level: float, power: float = POWER
    ) -> SampleSizeRange:
        return self._compute_sample_size_range(difference, level, power)

    def _compute_sample_size_range(
        self, shift: float, level: float, power: float, is_upward: bool | None = None
    ) -> SampleSizeRange:
        low, high = compute_standard_error_bound_factors(self.kurtosis, len(self.differences), MAX_TAILS)
        most = None if high is None else self._sample_size(shift, level, power, is_upward, high)
        return self._sample_size(shift, level, power, is_upward, low), most

    def _sample_size(
        self, shift: float, level: float, power: float, upward: bool | None = None, factor: float = 1.0
    ) -> int | None:
        n, error = len(self.differences), factor * self.standard_error
        return compute_samples_to_detect_shift(
            error,
            n,
            shift,
            level,
            power,
            scaled_skewness=self.scaled_skewness,
            kurtosis=self.kurtosis,
            is_upward=upward,
        )
