"""Test of means over questions and seeds: adds the variation between seeds to a test of questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from runner_compare.statistics.effects import Effect, Method, Test
from runner_compare.statistics.seed_means import (
    MIN_FREEDOM,
    ErrorComponent,
    add_seed_errors,
    combined_bound,
    detectable_difference_over_seeds,
    p_value_of_gap,
    seed_errors,
)
from runner_compare.statistics.stats import ALPHA, find_interval_end


@dataclass(frozen=True)
class SeedTest(Test):
    """A test of per-question means over seeds, with the accuracy of each seed.

    It plans no number of questions, because more questions do not show more about seeds.
    """

    by_questions: Test
    accuracies: Sequence[float]
    baseline_accuracies: Sequence[float]

    @cached_property
    def seed_components(self) -> list[ErrorComponent]:
        """Contributions of each run's seeds to the error of the difference."""
        return [*seed_errors(self.accuracies), *seed_errors(self.baseline_accuracies)]

    def compute_effect(self) -> Effect:
        effect = self.by_questions.effect
        counts_of_seeds = dict.fromkeys(
            f"{len(side)}" for side in (self.accuracies, self.baseline_accuracies)
        )
        families = effect.counts["grouping"].partition(", in ")
        grouping = f", mean of {' and '.join(counts_of_seeds)} seeds{''.join(families[1:])}"
        low, high = self.interval_at_level(ALPHA)
        return replace(
            effect,
            method=Method.over_seeds,
            low=low,
            high=high,
            p=self.p_value_at(0.0),
            counts={**effect.counts, "grouping": grouping},
        )

    def interval_at_level(self, alpha: float) -> tuple[float, float]:
        value = self.by_questions.effect.value

        def is_compatible(true: float) -> bool:
            parts = add_seed_errors(self.by_questions.p_value_at(true), value - true, self.seed_components)
            return parts is None or abs(value - true) <= combined_bound(parts, alpha, value > true)

        return find_interval_end(is_compatible, value, -1.0), find_interval_end(is_compatible, value, 1.0)

    def p_value_at(self, null_value: float) -> float:
        """Return the two-sided p-value against a null difference."""
        p, gap = self.by_questions.p_value_at(null_value), self.by_questions.effect.value - null_value
        parts = add_seed_errors(p, gap, self.seed_components)
        return p if parts is None else max(p, p_value_of_gap(parts, gap))

    @property
    def knows_power(self) -> bool:
        """Whether there are enough seeds to estimate their variation."""
        has_seeds = (
            not self.seed_components or min(part.freedom for part in self.seed_components) >= MIN_FREEDOM
        )
        return self.by_questions.knows_power and has_seeds

    @property
    def has_worst_case(self) -> bool:
        """Whether the underlying test of questions has a worst case."""
        return self.by_questions.has_worst_case

    def detectable_difference(self, level: float) -> float | None:
        return (
            self._add_seed_variation(self.by_questions.detectable_difference(level), level)
            if self.knows_power
            else None
        )

    def worst_case_detectable(self, level: float) -> float | None:
        """Return the smallest loss that is detected if it is concentrated in a few questions."""
        return (
            self._add_seed_variation(self.by_questions.worst_case_detectable(level), level)
            if self.knows_power
            else None
        )

    def _add_seed_variation(self, smallest: float | None, level: float) -> float | None:
        """Convert a difference detectable over questions to one detectable over questions and seeds."""
        if smallest is None or not self.seed_components:
            return smallest
        return detectable_difference_over_seeds(smallest, self.seed_components, level)
