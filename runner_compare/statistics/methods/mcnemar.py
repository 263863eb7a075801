"""McNemar's exact test, for two runs with one verdict per question on the same questions."""

from __future__ import annotations

from dataclasses import dataclass

from runner_compare.statistics import stats
from runner_compare.statistics.effects import (
    Effect,
    Method,
    SampleSizeRange,
    Test,
    effect_verdict_counts,
    exclude_zero,
)
from runner_compare.statistics.margins import compute_non_inferiority_sample_size
from runner_compare.statistics.planning import (
    estimate_disagreement_rate,
    find_smallest_detectable_difference,
    plan_questions_to_detect,
)
from runner_compare.statistics.stats import ALPHA, POWER


@dataclass(frozen=True)
class McNemarTest(Test):
    """McNemar's exact test of n paired questions.

    Wins are solved only by this run, losses only by the baseline.
    """

    wins: int
    losses: int
    n: int
    baseline_correct: int = 0
    tasks: int | None = None  # of how many tasks the questions are, if they are pooled

    knows_power = can_plan = can_plan_detection = True

    def compute_effect(self) -> Effect:
        wins, losses, n = self.wins, self.losses, self.n
        p = stats.compute_exact_mcnemar_p_value(wins, losses)
        low, high = stats.compute_paired_difference_interval(wins, losses, n)
        if p < ALPHA:  # of a few tables below 80 pairs the interval would hold 0
            low, high = exclude_zero(low, high, wins > losses)
        difference = (wins - losses) / n if n else 0.0
        counts = effect_verdict_counts(wins, losses, n - wins - losses, self.baseline_correct)
        if self.tasks is not None:
            counts |= {"tasks": self.tasks}
        return Effect(Method.mcnemar, "accuracy", difference, low, high, p, n, n, counts)

    @property
    def expected_disagreement_rate(self) -> float:
        return estimate_disagreement_rate(self.wins + self.losses, self.n)

    def compute_interval_at_level(self, alpha: float) -> tuple[float, float]:
        return stats.compute_paired_difference_interval(self.wins, self.losses, self.n, alpha)

    def compute_p_value(self, null_value: float) -> float:
        return stats.compute_paired_difference_p_value(self.wins, self.losses, self.n, null_value)

    def detectable_difference(self, level: float) -> float | None:
        discordant_rate = (self.wins + self.losses) / self.n if self.n else 0.0
        return find_smallest_detectable_difference(self.n, discordant_rate, level)

    def plan_sample_size_for_margin(self, margin: float, level: float, power: float = POWER) -> int | None:
        """Return the number of questions needed to decide about a margin.

        The number includes the questions that were already asked.
        """
        return compute_non_inferiority_sample_size(
            margin, self.expected_disagreement_rate, level, power, (self.wins, self.losses, self.n)
        )

    def estimate_sample_size_interval(
        self, margin: float, level: float, power: float = POWER
    ) -> SampleSizeRange:
        """Return the 95 % interval of the number of questions needed to decide about a margin.

        The range follows from the confidence interval of the disagreement rate.
        """
        seen = self.wins, self.losses, self.n
        fewest, most = (
            compute_non_inferiority_sample_size(margin, rate, level, power, seen)
            for rate in self.disagreement_interval
        )
        return fewest, most

    @property
    def disagreement_interval(self) -> tuple[float, float]:
        """95 % interval of the fraction of questions on which the verdicts of both runs differ."""
        return stats.compute_clopper_pearson_interval(self.wins + self.losses, self.n)

    def estimate_detection_size_interval(
        self, difference: float, level: float, power: float = POWER
    ) -> SampleSizeRange:
        """Return the 95 % interval of the number of questions needed to detect a difference.

        The range follows from the confidence interval of the disagreement rate.
        """
        fewest, most = (
            plan_questions_to_detect(rate, difference, level, power) for rate in self.disagreement_interval
        )
        return fewest, most

    def plan_sample_size_to_detect(self, difference: float, level: float, power: float = POWER) -> int | None:
        return plan_questions_to_detect(self.expected_disagreement_rate, difference, level, power)
