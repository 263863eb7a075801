"""Sequential comparison of two runs while one of them is running.

The decision holds whether cut-off answers are correct or wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from runner_compare.statistics.margins import MarginVerdict, decide_sequential_verdict
from runner_compare.statistics.sequential import SequentialPairs, Side, comparison_level, confidence_percent


@dataclass
class InterimComparison:
    """Always-valid test of a difference between two runs, one of which is still running.

    The test uses a part of the 5 % error rate.
    """

    comparisons: int = 1  # share the 5 %
    margin: float | None = None  # decides about this one, and not about any difference
    pairs: SequentialPairs = field(init=False)  # as counted: what was cut off is not right
    # with what was cut off at worst, at best
    ends: tuple[SequentialPairs, SequentialPairs] = field(init=False)

    def __post_init__(self) -> None:
        level = comparison_level(self.comparisons)
        self.pairs = SequentialPairs(level, self.margin)
        self.ends = SequentialPairs(level, self.margin), SequentialPairs(level, self.margin)

    def add_pair(
        self, is_solved: bool, is_baseline_solved: bool, is_cut_off: bool, is_baseline_cut_off: bool
    ) -> None:
        """Add the verdicts of both runs on one question, and whether each answer was cut off."""
        at_worst, at_best = self.ends
        self.pairs.add_pair(is_solved, is_baseline_solved)
        at_worst.add_pair(is_solved, is_baseline_solved or is_baseline_cut_off)
        at_best.add_pair(is_solved or is_cut_off, is_baseline_solved)

    @property
    def is_decided(self) -> bool:
        """Whether the job may stop early. With a margin, the verdict on the margin must be decided,
        otherwise the difference.
        """
        return (self.decision if self.margin is None else self.margin_decision) is not Side.open

    @property
    def decision(self) -> Side:
        """Decision about the difference. It is open if it depends on the verdicts of cut-off answers."""
        at_worst, at_best = (pairs.decision for pairs in self.ends)
        return at_worst if at_worst is at_best else Side.open

    @property
    def margin_decision(self) -> Side:
        """Decision about the margin. It is open if it depends on the verdicts of cut-off answers."""
        at_worst, at_best = (pairs.from_margin for pairs in self.ends)
        return at_worst if at_worst is at_best else Side.open

    @property
    def verdict(self) -> MarginVerdict:
        return decide_sequential_verdict(self.decision, self.margin_decision)

    @property
    def to_metrics(self) -> dict[str, float]:
        """Return the current counts, p-value and interval as metrics.

        The difference is the run's accuracy minus the baseline's accuracy.
        """
        pairs = self.pairs
        return {
            "wins": pairs.wins,
            "losses": pairs.losses,
            "p": pairs.p,
            "comparisons": self.comparisons,
            "level": pairs.level,
            "confidence_percent": confidence_percent(self.comparisons),
            "difference_points": 100 * pairs.difference,
            "difference_points_low": 100 * pairs.interval_low,
            "difference_points_high": 100 * pairs.interval_high,
        }
