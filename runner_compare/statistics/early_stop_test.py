"""Test of a job that stops early: the anytime-valid test after each question, and a final test at the limit.

The anytime-valid test needs up to twice the questions of a test with a fixed number. So 15 % of
the error rate are kept for one more test of all pairs, if a job answers all its questions
without a decision. The errors of both tests add up to the error rate: the final test's number
of questions, the job's limit, is fixed before the run. A job that reuses the answers of a job
with another limit has no final test: a test at each of several limits would add up to more.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from runner_compare.statistics.effects import compute_margin_test_p_value
from runner_compare.statistics.methods.mcnemar import McNemarTest
from runner_compare.statistics.sequential import SequentialPairs, Side
from runner_compare.statistics.simultaneous import align_interval_with_decision
from runner_compare.statistics.stats import ALPHA


@dataclass(frozen=True)
class ErrorParts:
    """Parts of a comparison's error rate for the anytime-valid test and for the final test."""

    sequential: float = 1.0
    final: float = 0.0


ONLY_SEQUENTIAL = ErrorParts()
WITH_FINAL_TEST = ErrorParts(0.85, 0.15)
FINAL_TEST_USED = ErrorParts(0.85)


@dataclass
class EarlyStopPairs:
    """Pairs of verdicts in question order, and the decisions of both tests."""

    level: float = ALPHA  # of both tests together
    margin: float | None = None  # the acceptable loss that is decided, too
    parts: ErrorParts = ONLY_SEQUENTIAL
    sequential: SequentialPairs = field(init=False)
    final: McNemarTest | None = None  # None before the limit

    def __post_init__(self) -> None:
        self.sequential = SequentialPairs(self.level * self.parts.sequential, self.margin)

    def add_pair(self, solved: bool, base_solved: bool) -> None:
        self.sequential.add_pair(solved, base_solved)

    def run_final_test(self) -> None:
        """Test all pairs once more, after the last question."""
        if self.parts.final:
            counts = self.sequential
            self.final = McNemarTest(counts.wins, counts.losses, counts.num_pairs)

    @property
    def p(self) -> float:
        """P-value against no difference, valid wherever the job stopped."""
        return self._combine_sequential_and_final_p_values(self.sequential.p, 0.0)

    @property
    def decision(self) -> Side:
        """Side of no difference on which the true difference lies."""
        return self._decide_by_final_test(self.sequential.decision, 0.0)

    @property
    def margin_decision(self) -> Side:
        """Side of minus the margin on which the true difference lies."""
        if self.margin is None:
            return Side.open
        return self._decide_by_final_test(self.sequential.from_margin, -self.margin)

    @property
    def interval(self) -> tuple[float, float]:
        """Interval of the true difference at the level of both tests together."""
        low, high = self.sequential.interval_low, self.sequential.interval_high
        if self.final is None:
            return low, high
        final_low, final_high = self.final.compute_interval_at_level(self.level * self.parts.final)
        values = [(0.0, self.decision)]
        if self.margin is not None:
            values.append((-self.margin, self.margin_decision))
        decided = [(value, side is not Side.open) for value, side in values]
        ends = max(low, final_low), min(high, final_high)
        return align_interval_with_decision(ends, self.sequential.difference, decided)

    def decide_side_of_null(self, null_difference: float) -> Side:
        side = self.sequential.find_first_decided_side(null_difference)
        return self._decide_by_final_test(side, null_difference)

    def compute_p_value_against(self, null_difference: float) -> float:
        p = self.sequential.compute_p_value_against(null_difference)
        return self._combine_sequential_and_final_p_values(p, null_difference)

    def _combine_sequential_and_final_p_values(self, sequential_p: float, null_difference: float) -> float:
        ps = [sequential_p / self.parts.sequential]
        if self.final is not None:
            ps.append(self._compute_final_p_value(null_difference) / self.parts.final)
        return min(1.0, *ps)

    def _decide_by_final_test(self, sequential_side: Side, null_difference: float) -> Side:
        """Return the decision of the anytime-valid test, or else of the final test."""
        if sequential_side is not Side.open or self.final is None:
            return sequential_side
        if self._compute_final_p_value(null_difference) > self.level * self.parts.final:
            return Side.open
        return Side.better if self.sequential.difference > null_difference else Side.worse

    def _compute_final_p_value(self, null_difference: float) -> float:
        assert self.final is not None
        return (
            compute_margin_test_p_value(self.final, null_difference)
            if null_difference
            else self.final.effect.p
        )
