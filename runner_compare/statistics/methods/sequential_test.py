"""Always-valid sequential test, for a run that is compared with its baseline while it runs.

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
    """Always-valid test that processes pairs of verdicts in the order in which the run answered the
    questions.
    """

    pairs: Sequence[tuple[bool, bool]]
    early_stop_comparisons: int | None = None  # as many share the 5 % as was fixed before that run

    @cached_property
    def sequential_pairs(self) -> SequentialPairs:
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

    def compute_interval_at_level(self, alpha: float) -> tuple[float, float]:
        """Return the interval of the always-valid test. `alpha` is ignored, because the level was
        fixed before the run.
        """
        return self.sequential_pairs.interval_low, self.sequential_pairs.interval_high

    def compute_p_value(self, null_value: float) -> float:
        return self.sequential_pairs.compute_p_value_against(null_value)

    def decide_side_of_null(self, null_value: float) -> Side:
        return self.sequential_pairs.find_first_decided_side(null_value)
