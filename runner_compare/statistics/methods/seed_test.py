"""Test of a mean difference over questions and seeds.

The variance between seeds is added to a test over questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from runner_compare.statistics.effects import Effect, Method, Test
from runner_compare.statistics.seed_means import (
    MIN_FREEDOM,
    ErrorComponent,
    combine_question_and_seed_errors,
    compute_combined_error_bound,
    compute_difference_p_value,
    compute_seed_errors,
    find_detectable_difference_over_seeds,
)
from runner_compare.statistics.stats import ALPHA, bisect_to_interval_end


@dataclass(frozen=True)
class SeedTest(Test):
    """Test of per-question means over seeds, with the accuracy of each seed.

    It plans no number of questions, because more questions do not show more about seeds.
    """

    by_questions: Test
    accuracies: Sequence[float]
    baseline_accuracies: Sequence[float]

    @cached_property
    def seed_components(self) -> list[ErrorComponent]:
        return [*compute_seed_errors(self.accuracies), *compute_seed_errors(self.baseline_accuracies)]

    def compute_effect(self) -> Effect:
        effect = self.by_questions.effect
        counts_of_seeds = dict.fromkeys(
            f"{len(side)}" for side in (self.accuracies, self.baseline_accuracies)
        )
        families = effect.counts["grouping"].partition(", in ")
        grouping = f", mean of {' and '.join(counts_of_seeds)} seeds{''.join(families[1:])}"
        low, high = self.compute_interval_at_level(ALPHA)
        return replace(
            effect,
            method=Method.over_seeds,
            low=low,
            high=high,
            p=self.compute_p_value(0.0),
            counts={**effect.counts, "grouping": grouping},
        )

    def compute_interval_at_level(self, alpha: float) -> tuple[float, float]:
        value = self.by_questions.effect.value

        def is_compatible(true: float) -> bool:
            parts = combine_question_and_seed_errors(
                self.by_questions.compute_p_value(true), value - true, self.seed_components
            )
            return parts is None or abs(value - true) <= compute_combined_error_bound(
                parts, alpha, value > true
            )

        return bisect_to_interval_end(is_compatible, value, -1.0), bisect_to_interval_end(
            is_compatible, value, 1.0
        )

    def compute_p_value(self, null_value: float) -> float:
        p, gap = self.by_questions.compute_p_value(null_value), self.by_questions.effect.value - null_value
        parts = combine_question_and_seed_errors(p, gap, self.seed_components)
        return p if parts is None else max(p, compute_difference_p_value(parts, gap))

    @property
    def knows_power(self) -> bool:
        has_seeds = (
            not self.seed_components or min(part.freedom for part in self.seed_components) >= MIN_FREEDOM
        )
        return self.by_questions.knows_power and has_seeds

    @property
    def has_worst_case(self) -> bool:
        return self.by_questions.has_worst_case

    def detectable_difference(self, level: float) -> float | None:
        return (
            self._add_seed_variation(self.by_questions.detectable_difference(level), level)
            if self.knows_power
            else None
        )

    def find_worst_case_detectable(self, level: float) -> float | None:
        return (
            self._add_seed_variation(self.by_questions.find_worst_case_detectable(level), level)
            if self.knows_power
            else None
        )

    def _add_seed_variation(self, detectable_difference: float | None, level: float) -> float | None:
        if detectable_difference is None or not self.seed_components:
            return detectable_difference
        return find_detectable_difference_over_seeds(detectable_difference, self.seed_components, level)
