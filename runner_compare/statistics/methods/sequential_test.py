"""Always-valid test of paired verdicts, for runs that were compared while running.

A test for a single look would not be valid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from runner_compare.statistics.effects import Effect, Method, Test, effect_verdict_counts
from runner_compare.statistics.sequential import SequentialPairs, Side, comparison_level, confidence_percent


@dataclass(frozen=True)
class SequentialTest(Test):
    """Always-valid test of paired verdicts, in the order in which the run evaluated them."""

    pairs: Sequence[tuple[bool, bool]]
    early_stop_comparisons: int | None = None  # as many share the 5 % as was fixed before that run

    @cached_property
    def sequential_pairs(self) -> SequentialPairs:
        """Result of the always-valid test on the pairs."""
        seen = SequentialPairs(comparison_level(self.early_stop_comparisons or 1))
        for is_right, is_baseline_right in self.pairs:
            seen.add_pair(is_right, is_baseline_right)
        return seen

    def compute_effect(self) -> Effect:
        seen, baseline_correct = (
            self.sequential_pairs,
            sum(is_baseline_right for _, is_baseline_right in self.pairs),
        )
        counts = effect_verdict_counts(seen.wins, seen.losses, seen.ties, baseline_correct)
        return Effect(
            Method.sequential,
            "accuracy",
            seen.difference,
            seen.interval_low,
            seen.interval_high,
            seen.p,
            seen.num_pairs,
            seen.num_pairs,
            counts | {"confidence": confidence_percent(self.early_stop_comparisons or 1)},
            early_stop_comparisons=self.early_stop_comparisons,
        )

    def interval_at_level(self, alpha: float) -> tuple[float, float]:
        """Return the interval at the level fixed before the run. Other levels are not possible."""
        return self.sequential_pairs.interval_low, self.sequential_pairs.interval_high

    def p_value_at(self, null_value: float) -> float:
        """Return the two-sided p-value against a null difference."""
        return self.sequential_pairs.p_value_against(null_value)

    def sequential_side(self, null_value: float) -> Side:
        """Return on which side of a null value the true difference lies, by the always-valid test."""
        return self.sequential_pairs.first_shown_side(null_value)
