"""Fisher's exact test: verdicts by their counts alone, as if the questions had nothing in
common."""

from __future__ import annotations

from dataclasses import dataclass

from runner_compare.statistics import stats
from runner_compare.statistics.effects import Effect, Method, Test, verdict_counts, without_zero
from runner_compare.statistics.stats import ALPHA


@dataclass(frozen=True)
class Fisher(Test):
    """How many questions each side solved, of how many."""

    correct: int
    n: int
    baseline_correct: int
    baseline_n: int

    knows_power = True

    def compare(self) -> Effect:
        """Compute the effect."""
        # takes a second to import, and only unpaired runs need it
        from scipy.stats import fisher_exact

        table = [
            [self.correct, self.n - self.correct],
            [self.baseline_correct, self.baseline_n - self.baseline_correct],
        ]
        p = float(fisher_exact(table).pvalue)
        difference = self.correct / self.n - self.baseline_correct / self.baseline_n
        low, high = stats.unpaired_difference_interval(
            self.correct, self.n, self.baseline_correct, self.baseline_n
        )
        if p < ALPHA:  # of some small tables the interval would hold 0
            low, high = without_zero(low, high, difference > 0)
        counts = verdict_counts(None, None, None, self.baseline_correct)
        return Effect(Method.fisher, "accuracy", difference, low, high, p, self.n, self.baseline_n, counts)

    def interval_at(self, alpha: float) -> tuple[float, float]:
        """Return the interval at another level."""
        return stats.unpaired_difference_interval(
            self.correct, self.n, self.baseline_correct, self.baseline_n, alpha
        )

    def p_at(self, value: float) -> float:
        """Return the two-sided p against a true difference."""
        return stats.unpaired_difference_p(
            self.correct, self.n, self.baseline_correct, self.baseline_n, value
        )

    def detects(self, level: float) -> float | None:
        """Return the smallest true difference that so many questions detect."""
        pooled = (self.correct + self.baseline_correct) / (self.n + self.baseline_n)
        return stats.unpaired_detectable_difference(self.n, self.baseline_n, pooled, level)
