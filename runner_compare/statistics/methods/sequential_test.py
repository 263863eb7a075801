"""Test of a run that was compared with its baseline while it ran.

A test for a single look would not be valid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from runner_compare.statistics.early_stop_test import ONLY_SEQUENTIAL, EarlyStopPairs, ErrorParts
from runner_compare.statistics.effects import Effect, Method, Test, effect_verdict_counts
from runner_compare.statistics.sequential import Side, comparison_level, confidence_percent


@dataclass(frozen=True)
class SequentialTest(Test):
    """Test that processes pairs of verdicts in the order in which the run answered the questions."""

    pairs: Sequence[tuple[bool, bool]]
    early_stop_comparisons: int | None = None  # as many share the 5 % as was fixed before that run
    parts: ErrorParts = ONLY_SEQUENTIAL
    is_at_limit: bool = False  # all questions of the job were answered

    @cached_property
    def replayed_early_stop_test(self) -> EarlyStopPairs:
        pairs = EarlyStopPairs(comparison_level(self.early_stop_comparisons or 1), parts=self.parts)
        for is_right, is_baseline_right in self.pairs:
            pairs.add_pair(is_right, is_baseline_right)
        if self.is_at_limit:
            pairs.run_final_test()
        return pairs

    def compute_effect(self) -> Effect:
        seen = self.replayed_early_stop_test.sequential
        baseline_correct = sum(is_baseline_right for _, is_baseline_right in self.pairs)
        counts = effect_verdict_counts(seen.wins, seen.losses, seen.ties, baseline_correct)
        return Effect(
            Method.sequential,
            "accuracy",
            seen.difference,
            *self.replayed_early_stop_test.interval,
            self.replayed_early_stop_test.p,
            seen.num_pairs,
            seen.num_pairs,
            counts | {"confidence": confidence_percent(self.early_stop_comparisons or 1)},
            early_stop_comparisons=self.early_stop_comparisons,
        )

    def compute_interval_at_level(self, alpha: float) -> tuple[float, float]:
        """Return the interval of the test. `alpha` is ignored, because the level was fixed before the run."""
        return self.replayed_early_stop_test.interval

    def compute_p_value(self, null_value: float) -> float:
        return self.replayed_early_stop_test.compute_p_value_against(null_value)

    def decide_side_of_null(self, null_value: float) -> Side:
        return self.replayed_early_stop_test.decide_side_of_null(null_value)
