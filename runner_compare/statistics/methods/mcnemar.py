"""McNemar's exact test: verdicts on the same questions, each counted once."""

from __future__ import annotations

from dataclasses import dataclass

from runner_compare.statistics import stats
from runner_compare.statistics.effects import Between, Effect, Method, Test, verdict_counts, without_zero
from runner_compare.statistics.margins import questions_needed
from runner_compare.statistics.planning import expected_disagreement, questions_to_detect, smallest_detectable
from runner_compare.statistics.stats import ALPHA, POWER


@dataclass(frozen=True)
class McNemar(Test):
    """Verdicts on the same n questions: wins are those that only this run solved, losses the
    reverse."""

    wins: int
    losses: int
    n: int
    baseline_correct: int = 0
    tasks: int | None = None  # of how many tasks the questions are, if they are pooled

    knows_power = can_plan = can_plan_detection = True

    def compare(self) -> Effect:
        """Compute the effect."""
        wins, losses, n = self.wins, self.losses, self.n
        p = stats.mcnemar_exact(wins, losses)
        low, high = stats.paired_difference_interval(wins, losses, n)
        if p < ALPHA:  # of a few tables below 80 pairs the interval would hold 0
            low, high = without_zero(low, high, wins > losses)
        difference = (wins - losses) / n if n else 0.0
        counts = verdict_counts(wins, losses, n - wins - losses, self.baseline_correct)
        if self.tasks is not None:
            counts |= {"tasks": self.tasks}
        return Effect(Method.mcnemar, "accuracy", difference, low, high, p, n, n, counts)

    @property
    def expected(self) -> float:
        """The share of further questions that only one of the two will solve."""
        return expected_disagreement(self.wins + self.losses, self.n)

    def interval_at(self, alpha: float) -> tuple[float, float]:
        """Return the interval at another level."""
        return stats.paired_difference_interval(self.wins, self.losses, self.n, alpha)

    def p_at(self, value: float) -> float:
        """Return the two-sided p against a true difference."""
        return stats.paired_difference_p(self.wins, self.losses, self.n, value)

    def detects(self, level: float) -> float | None:
        """Return the smallest true difference that so many questions detect."""
        discordant_rate = (self.wins + self.losses) / self.n if self.n else 0.0
        return smallest_detectable(self.n, discordant_rate, level)

    def needs(self, margin: float, level: float, power: float = POWER) -> int | None:
        """Return the questions that decide about a margin, those that were asked included."""
        return questions_needed(margin, self.expected, level, power, (self.wins, self.losses, self.n))

    def needs_between(self, margin: float, level: float, power: float = POWER) -> Between:
        """Return what a margin needs at both ends of the interval of the disagreement."""
        seen = self.wins, self.losses, self.n
        fewest, most = (questions_needed(margin, rate, level, power, seen) for rate in self.disagreement_ends)
        return fewest, most

    @property
    def disagreement_ends(self) -> tuple[float, float]:
        """The 95 % interval of the share of questions that only one of the two solves."""
        return stats.exact_interval(self.wins + self.losses, self.n)

    def needs_to_detect_between(self, difference: float, level: float, power: float = POWER) -> Between:
        """Return what a difference needs at both ends of the interval of the disagreement."""
        fewest, most = (
            questions_to_detect(rate, difference, level, power) for rate in self.disagreement_ends
        )
        return fewest, most

    def needs_to_detect(self, difference: float, level: float, power: float = POWER) -> int | None:
        return questions_to_detect(self.expected, difference, level, power)
