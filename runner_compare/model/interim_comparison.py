"""Sequential comparison of two runs while one of them is running.

The decision holds whether cut-off answers are correct or wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from runner_compare.statistics.early_stop_test import FINAL_TEST_USED, WITH_FINAL_TEST, EarlyStopPairs
from runner_compare.statistics.margins import MarginVerdict, decide_sequential_verdict
from runner_compare.statistics.sequential import Side, comparison_level, confidence_percent


@dataclass
class InterimComparison:
    """Test of a difference between two runs, one of which is still running.

    The test uses a part of the 5 % error rate.
    """

    comparisons: int = 1  # share the 5 %
    margin: float | None = None  # decides about this one, and not about any difference
    has_final_test: bool = True  # no other number of these questions was tested before
    pairs: EarlyStopPairs = field(init=False)  # as counted: what was cut off is not right
    # with what was cut off at worst, at best
    ends: tuple[EarlyStopPairs, EarlyStopPairs] = field(init=False)

    def __post_init__(self) -> None:
        level = comparison_level(self.comparisons)
        parts = WITH_FINAL_TEST if self.has_final_test else FINAL_TEST_USED
        self.pairs, *ends = (EarlyStopPairs(level, self.margin, parts) for _ in range(3))
        self.ends = ends[0], ends[1]

    def add_pair(
        self, is_solved: bool, is_baseline_solved: bool, is_cut_off: bool, is_baseline_cut_off: bool
    ) -> None:
        """Add the verdicts of both runs on one question, and whether each answer was cut off."""
        at_worst, at_best = self.ends
        self.pairs.add_pair(is_solved, is_baseline_solved)
        at_worst.add_pair(is_solved, is_baseline_solved or is_baseline_cut_off)
        at_best.add_pair(is_solved or is_cut_off, is_baseline_solved)

    def run_final_test(self) -> None:
        """Test all pairs once more, after the last question of the job."""
        for pairs in (self.pairs, *self.ends):
            pairs.run_final_test()

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
        at_worst, at_best = (pairs.margin_decision for pairs in self.ends)
        return at_worst if at_worst is at_best else Side.open

    @property
    def verdict(self) -> MarginVerdict:
        return decide_sequential_verdict(self.decision, self.margin_decision)

    @property
    def is_worse(self) -> bool:
        """Whether a test shows that the run is worse, by any amount or by more than the margin."""
        return self.decision is Side.worse or self.verdict is MarginVerdict.worse_by_more

    @property
    def to_metrics(self) -> dict[str, float]:
        """Return the current counts, p-value and interval as metrics.

        The difference is the run's accuracy minus the baseline's accuracy. The decision is -1 (worse), 0
        (undecided) or 1 (better).
        """
        pairs, counts = self.pairs, self.pairs.sequential
        low, high = pairs.interval
        return {
            "wins": counts.wins,
            "losses": counts.losses,
            "p": pairs.p,
            "decision": -1 if self.is_worse else int(self.decision is Side.better),
            "comparisons": self.comparisons,
            "level": pairs.level,
            "confidence_percent": confidence_percent(self.comparisons),
            "final_test_part": pairs.parts.final,
            "difference_points": 100 * counts.difference,
            "difference_points_low": 100 * low,
            "difference_points_high": 100 * high,
        }
