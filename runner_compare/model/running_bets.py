"""Two runs that are compared while one of them runs: what its pairs so far have decided.

Answers that were cut off decide nothing: what is decided holds whether they are right or wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from runner_compare.statistics.margins import MarginVerdict, margin_verdict
from runner_compare.statistics.sequential import Pairs, Side, confidence_percent, level_of


@dataclass
class RunningBets:
    """The pairs so far, decided at one of several shares of the 5 %."""

    comparisons: int = 1  # share the 5 %
    margin: float | None = None  # decides about this one, and not about any difference
    pairs: Pairs = field(init=False)  # as counted: what was cut off is not right
    ends: tuple[Pairs, Pairs] = field(init=False)  # with what was cut off at worst, at best

    def __post_init__(self) -> None:
        level = level_of(self.comparisons)
        self.pairs = Pairs(level, self.margin)
        self.ends = Pairs(level, self.margin), Pairs(level, self.margin)

    def add(self, solved: bool, baseline_solved: bool, cut_off: bool, baseline_cut_off: bool) -> None:
        """Look at one more pair."""
        at_worst, at_best = self.ends
        self.pairs.add(solved, baseline_solved)
        at_worst.add(solved, baseline_solved or baseline_cut_off)
        at_best.add(solved or cut_off, baseline_solved)

    @property
    def is_decided(self) -> bool:
        """Whether the run may stop: with a margin, a difference alone is not enough."""
        return (self.decision if self.margin is None else self.from_margin) is not Side.open

    @property
    def decision(self) -> Side:
        """What is decided about the difference, whatever the answers that were cut off would have
        been."""
        at_worst, at_best = (pairs.decision for pairs in self.ends)
        return at_worst if at_worst is at_best else Side.open

    @property
    def from_margin(self) -> Side:
        """What is decided about the margin, likewise."""
        at_worst, at_best = (pairs.from_margin for pairs in self.ends)
        return at_worst if at_worst is at_best else Side.open

    @property
    def verdict(self) -> MarginVerdict:
        """What both decide about the margin."""
        return margin_verdict(self.decision, self.from_margin)

    @property
    def figures(self) -> dict[str, float]:
        """The pairs in numbers; the difference is the accuracy minus the baseline's."""
        pairs = self.pairs
        return {
            "wins": pairs.wins,
            "losses": pairs.losses,
            "p": pairs.p,
            "comparisons": self.comparisons,
            "level": pairs.level,
            "confidence_percent": confidence_percent(self.comparisons),
            "difference_points": 100 * pairs.difference,
            "difference_points_low": 100 * pairs.low,
            "difference_points_high": 100 * pairs.high,
        }
