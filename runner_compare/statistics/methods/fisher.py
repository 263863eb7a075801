"""Fisher's exact test for verdicts of two runs on different questions."""

from __future__ import annotations

from dataclasses import dataclass

from runner_compare.statistics import stats
from runner_compare.statistics.effects import Effect, Method, Test, effect_verdict_counts, exclude_zero
from runner_compare.statistics.stats import ALPHA


@dataclass(frozen=True)
class FisherTest(Test):
    """Fisher's exact test, given the numbers of correct answers and questions of both runs."""

    correct: int
    n: int
    baseline_correct: int
    baseline_n: int

    knows_power = True

    def compute_effect(self) -> Effect:
        # takes a second to import, and only unpaired runs need it
        from scipy.stats import fisher_exact

        table = [
            [self.correct, self.n - self.correct],
            [self.baseline_correct, self.baseline_n - self.baseline_correct],
        ]
        p = float(fisher_exact(table).pvalue)
        difference = self.correct / self.n - self.baseline_correct / self.baseline_n
        low, high = stats.compute_unpaired_difference_interval(
            self.correct, self.n, self.baseline_correct, self.baseline_n
        )
        if p < ALPHA:  # of some small tables the interval would hold 0
            low, high = exclude_zero(low, high, difference > 0)
        counts = effect_verdict_counts(None, None, None, self.baseline_correct)
        return Effect(Method.fisher, "accuracy", difference, low, high, p, self.n, self.baseline_n, counts)

    def compute_interval_at_level(self, alpha: float) -> tuple[float, float]:
        return stats.compute_unpaired_difference_interval(
            self.correct, self.n, self.baseline_correct, self.baseline_n, alpha
        )

    def compute_p_value(self, null_value: float) -> float:
        return stats.compute_unpaired_difference_p_value(
            self.correct, self.n, self.baseline_correct, self.baseline_n, null_value
        )

    def detectable_difference(self, level: float) -> float | None:
        pooled = (self.correct + self.baseline_correct) / (self.n + self.baseline_n)
        return stats.find_detectable_unpaired_difference(self.n, self.baseline_n, pooled, level)
