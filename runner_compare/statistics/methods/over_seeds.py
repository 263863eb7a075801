"""Means over questions and seeds: what the seeds vary by is added to a test that counts
questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from runner_compare.statistics.effects import Effect, Method, Test
from runner_compare.statistics.over_seeds import (
    MIN_FREEDOM,
    ErrorPart,
    bound,
    detectable_over_seeds,
    of_seeds,
    p_of_gap,
    with_seeds,
)
from runner_compare.statistics.stats import ALPHA, edge


@dataclass(frozen=True)
class OverSeeds(Test):
    """A test of the means over seeds, question by question, and the accuracy of each seed of both
    sides.

    No number of questions is planned from it, because more questions do not show more about seeds.
    """

    by_questions: Test
    accuracies: Sequence[float]
    baseline_accuracies: Sequence[float]

    @cached_property
    def seeds(self) -> list[ErrorPart]:
        """What seeds add to the error of the difference."""
        return [*of_seeds(self.accuracies), *of_seeds(self.baseline_accuracies)]

    def compare(self) -> Effect:
        """Compute the effect."""
        effect = self.by_questions.effect
        counts_of_seeds = dict.fromkeys(
            f"{len(side)}" for side in (self.accuracies, self.baseline_accuracies)
        )
        families = effect.counts["grouping"].partition(", in ")
        grouping = f", mean of {' and '.join(counts_of_seeds)} seeds{''.join(families[1:])}"
        low, high = self.interval_at(ALPHA)
        return replace(
            effect,
            method=Method.over_seeds,
            low=low,
            high=high,
            p=self.p_at(0.0),
            counts={**effect.counts, "grouping": grouping},
        )

    def interval_at(self, alpha: float) -> tuple[float, float]:
        """Return the interval at a level."""
        value = self.by_questions.effect.value

        def is_inside(true: float) -> bool:
            parts = with_seeds(self.by_questions.p_at(true), value - true, self.seeds)
            return parts is None or abs(value - true) <= bound(parts, alpha, value > true)

        return edge(is_inside, value, -1.0), edge(is_inside, value, 1.0)

    def p_at(self, value: float) -> float:
        """Return the two-sided p against a true difference."""
        p, gap = self.by_questions.p_at(value), self.by_questions.effect.value - value
        parts = with_seeds(p, gap, self.seeds)
        return p if parts is None else max(p, p_of_gap(parts, gap))

    @property
    def knows_power(self) -> bool:
        """Whether there are enough seeds to know what they vary by."""
        has_seeds = not self.seeds or min(part.freedom for part in self.seeds) >= MIN_FREEDOM
        return self.by_questions.knows_power and has_seeds

    @property
    def has_worst_case(self) -> bool:
        """Whether the test of the questions has one."""
        return self.by_questions.has_worst_case

    def detects(self, level: float) -> float | None:
        """Return the smallest true difference that is detected."""
        return self._with_seeds(self.by_questions.detects(level), level) if self.knows_power else None

    def detects_at_worst(self, level: float) -> float | None:
        """Return the smallest loss of a few questions that is detected."""
        return (
            self._with_seeds(self.by_questions.detects_at_worst(level), level) if self.knows_power else None
        )

    def _with_seeds(self, smallest: float | None, level: float) -> float | None:
        """Return what is detected by a test that counts seeds, too, from what questions alone
        detect."""
        if smallest is None or not self.seeds:
            return smallest
        return detectable_over_seeds(smallest, self.seeds, level)
