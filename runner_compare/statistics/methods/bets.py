"""Bets on pairs of verdicts where a side was compared while it ran: a test for one look would not
be valid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from runner_compare.statistics.effects import Effect, Method, Test, verdict_counts
from runner_compare.statistics.sequential import Pairs, Side, confidence_percent, level_of


@dataclass(frozen=True)
class Bets(Test):
    """Pairs of verdicts in the order in which a run looked at them: whether this one and the
    baseline are right."""

    pairs: Sequence[tuple[bool, bool]]
    early_stop_comparisons: int | None = None  # as many share the 5 % as was fixed before that run

    @cached_property
    def seen(self) -> Pairs:
        """What the bets have won on the pairs."""
        seen = Pairs(level_of(self.early_stop_comparisons or 1))
        for is_right, is_baseline_right in self.pairs:
            seen.add(is_right, is_baseline_right)
        return seen

    def compare(self) -> Effect:
        """Compute the effect."""
        seen, baseline_correct = (self.seen, sum(is_baseline_right for _, is_baseline_right in self.pairs))
        counts = verdict_counts(seen.wins, seen.losses, seen.ties, baseline_correct)
        return Effect(
            Method.sequential,
            "accuracy",
            seen.difference,
            seen.low,
            seen.high,
            seen.p,
            seen.count,
            seen.count,
            counts | {"confidence": confidence_percent(self.early_stop_comparisons or 1)},
            early_stop_comparisons=self.early_stop_comparisons,
        )

    def interval_at(self, alpha: float) -> tuple[float, float]:
        """Return the interval at the share that was fixed before the run: it has no other."""
        return self.seen.low, self.seen.high

    def p_at(self, value: float) -> float:
        """Return the two-sided p against a true difference."""
        return self.seen.p_against(value)

    def side_of(self, value: float) -> Side:
        """Return on which side of a value the bets see the truth."""
        return self.seen.side_of(value)
