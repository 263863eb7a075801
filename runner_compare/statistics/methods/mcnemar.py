"""McNemar's exact test, for runs with one verdict per question on the same questions."""

from __future__ import annotations

from dataclasses import dataclass

from runner_compare.statistics import stats
from runner_compare.statistics.effects import (
    Between,
    Effect,
    Method,
    Test,
    effect_verdict_counts,
    exclude_zero,
)
from runner_compare.statistics.margins import paired_questions_needed
from runner_compare.statistics.planning import (
    expected_disagreement,
    questions_needed_to_detect,
    smallest_detectable_difference,
)
from runner_compare.statistics.stats import ALPHA, POWER


@dataclass(frozen=True)
class McNemarTest(Test):
    """McNemar's test of n questions: wins are solved only by this run, losses only by the baseline."""

    wins: int
    losses: int
    n: int
    baseline_correct: int = 0
    tasks: int | None = None  # of how many tasks the questions are, if they are pooled

    knows_power = can_plan = can_plan_detection = True

    def compute_effect(self) -> Effect:
        wins, losses, n = self.wins, self.losses, self.n
        p = stats.mcnemar_exact_p_value(wins, losses)
        low, high = stats.paired_difference_interval(wins, losses, n)
        if p < ALPHA:  # of a few tables below 80 pairs the interval would hold 0
            low, high = exclude_zero(low, high, wins > losses)
        difference = (wins - losses) / n if n else 0.0
        counts = effect_verdict_counts(wins, losses, n - wins - losses, self.baseline_correct)
        if self.tasks is not None:
            counts |= {"tasks": self.tasks}
        return Effect(Method.mcnemar, "accuracy", difference, low, high, p, n, n, counts)

    @property
    def expected_disagreement_rate(self) -> float:
        """Expected fraction of new questions that only one of the two runs solves."""
        return expected_disagreement(self.wins + self.losses, self.n)

    def interval_at_level(self, alpha: float) -> tuple[float, float]:
        return stats.paired_difference_interval(self.wins, self.losses, self.n, alpha)

    def p_value_at(self, null_value: float) -> float:
        """Return the two-sided p-value against a null difference."""
        return stats.paired_difference_p_value(self.wins, self.losses, self.n, null_value)

    def detectable_difference(self, level: float) -> float | None:
        """Return the smallest true difference that the test's number of questions detects."""
        discordant_rate = (self.wins + self.losses) / self.n if self.n else 0.0
        return smallest_detectable_difference(self.n, discordant_rate, level)

    def sample_size_for_margin(self, margin: float, level: float, power: float = POWER) -> int | None:
        """Return the number of questions that decides about a margin, including those already asked."""
        return paired_questions_needed(
            margin, self.expected_disagreement_rate, level, power, (self.wins, self.losses, self.n)
        )

    def sample_size_interval(self, margin: float, level: float, power: float = POWER) -> Between:
        """Return the sample sizes for a margin at both ends of the disagreement rate's interval."""
        seen = self.wins, self.losses, self.n
        fewest, most = (
            paired_questions_needed(margin, rate, level, power, seen) for rate in self.disagreement_interval
        )
        return fewest, most

    @property
    def disagreement_interval(self) -> tuple[float, float]:
        """95 % interval of the fraction of questions that only one of the two runs solves."""
        return stats.exact_interval(self.wins + self.losses, self.n)

    def detection_size_interval(self, difference: float, level: float, power: float = POWER) -> Between:
        """Return the sample sizes that detect a difference at both ends of the disagreement rate's
        interval.
        """
        fewest, most = (
            questions_needed_to_detect(rate, difference, level, power) for rate in self.disagreement_interval
        )
        return fewest, most

    def sample_size_to_detect(self, difference: float, level: float, power: float = POWER) -> int | None:
        return questions_needed_to_detect(self.expected_disagreement_rate, difference, level, power)
