"""Base classes of statistical tests.

A Test takes the data of two runs and computes an Effect. `decisions` decides all effects of
a table. Each method is a module of `methods`, with one Test. The defaults here apply to
what a test does not provide.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

from runner_compare.metrics import BetterDirection
from runner_compare.statistics.sequential import Side
from runner_compare.statistics.stats import ALPHA, POWER, normal_quantile


class Method(StrEnum):
    """Names of the statistical test methods."""

    mcnemar = "mcnemar"  # exact, paired on the same questions
    # exact, paired, over several tasks whose questions have other weights
    weighted_flips = "weighted_flips"
    fisher = "fisher"  # exact, for questions that cannot be paired
    sequential = (
        "sequential"  # bets on the pairs in the order of the questions, where a run was compared while it ran
    )
    sign_flips = "sign_flips"  # signs of paired log-likelihoods' differences
    number_flips = "number_flips"  # signs of the differences of any number that each question has
    mean_flips = (
        "mean_flips"  # signs of paired means' differences: of clusters of questions, or of several samples
    )
    over_seeds = (
        "over_seeds"  # the same over jobs that differ in their seed, which count as well as questions
    )
    student_t = "student_t"  # over runs of a measurement, each in a process of its own
    # no test: repeats within one process say nothing about another one
    too_few_runs = "too_few_runs"


# The ends of an interval of questions; None: more than ten million.
SampleSizeRange = tuple[int | None, int | None]


@dataclass(frozen=True)
class Effect:
    """Difference between a run and its baseline: estimate, confidence interval and p-value.

    A difference is the run minus the baseline, a ratio is the run divided by the baseline.
    """

    method: str  # its name in quantities.METHODS
    measure: str  # what differs; of a figure with several cells: FIGURE/CELL
    value: float
    low: float  # of the 95 % interval
    high: float
    p: float
    n: int  # pairs or samples; of a measurement, the runs of this job
    baseline_n: int
    # further counts of the method, by their names in JSON
    counts: Mapping[str, Any] = field(default_factory=dict)
    is_ratio: bool = False
    better: BetterDirection = BetterDirection.higher  # which direction of the measure is better
    # these share 5 %, as fixed before the run; None: those of the table do
    early_stop_comparisons: int | None = None

    def __post_init__(self) -> None:
        """Extend the interval to the value of no difference if the test does not reject that value."""
        if self.p >= ALPHA and self.is_tested:
            object.__setattr__(self, "low", min(self.low, self.neutral_value))
            object.__setattr__(self, "high", max(self.high, self.neutral_value))

    @property
    def is_tested(self) -> bool:
        """Whether the effect has a p-value.

        If not, `low` and `high` are the range of the repeats.
        """
        return self.method is not Method.too_few_runs

    @property
    def neutral_value(self) -> float:
        """Value of an effect if two runs do not differ: 0 for a difference, 1 for a ratio."""
        return 1.0 if self.is_ratio else 0.0


class Test(ABC):
    """Statistical test that compares two runs. Each subclass is a frozen dataclass with the data."""

    __test__ = False  # pytest would take it for a class of tests

    @cached_property
    def effect(self) -> Effect:
        """Effect of the test, computed once."""
        return self.compute_effect()

    @abstractmethod
    def compute_effect(self) -> Effect: ...

    def compute_interval_at_level(self, alpha: float) -> tuple[float, float]:
        """Return a confidence interval that excludes the true value with at most probability
        `alpha`.

        The default stretches the 95 % interval like that of a normal estimate.
        """
        effect = self.effect
        stretch = normal_quantile(alpha) / normal_quantile(ALPHA)
        if effect.is_ratio:
            low, high = (effect.value * (end / effect.value) ** stretch for end in (effect.low, effect.high))
            return low, high
        low, high = (effect.value + stretch * (end - effect.value) for end in (effect.low, effect.high))
        return low, high

    def compute_p_value(self, null_value: float) -> float:
        """Return the two-sided p-value against a null value; 1 for tests that do not support margins."""
        return 1.0

    def decide_side_of_null(self, null_value: float) -> Side:
        """Return whether the anytime-valid test shows that the true difference is above or below a null value.

        The part of the error rate that this test may use was fixed before the run.
        """
        raise NotImplementedError(f"{type(self).__name__} has no bets")

    @property
    def knows_power(self) -> bool:
        """Whether the smallest detectable difference can be computed."""
        return False

    def detectable_difference(self, level: float) -> float | None:
        """Return the smallest true difference that the test detects; None if unknown."""
        return None

    @property
    def has_worst_case(self) -> bool:
        """Whether a loss that few questions cause is harder to detect than one spread over all questions."""
        return False

    def find_worst_case_detectable(self, level: float) -> float | None:
        """Return the smallest detectable difference if few questions cause all of it; None if unknown."""
        return None

    @property
    def can_plan(self) -> bool:
        """Whether the test can compute the sample size needed to decide about a margin."""
        return False

    def plan_sample_size_for_margin(self, margin: float, level: float, power: float = POWER) -> int | None:
        """Return the number of questions, or of runs per job, needed to decide about a margin.

        The plan assumes that neither run is better. Returns None if too many are needed.
        """
        return None

    def estimate_sample_size_interval(
        self, margin: float, level: float, power: float = POWER
    ) -> SampleSizeRange | None:
        """Return the 95 % interval of the sample size needed to decide about a margin; None if unknown."""
        return None

    @property
    def can_plan_detection(self) -> bool:
        """Whether the test can compute the number of questions needed to detect a difference."""
        return False

    def plan_sample_size_to_detect(self, difference: float, level: float, power: float = POWER) -> int | None:
        """Return the number of questions needed to detect a true difference; None if there are too many."""
        return None

    def estimate_detection_size_interval(
        self, difference: float, level: float, power: float = POWER
    ) -> SampleSizeRange | None:
        """Return the 95 % interval of the number of questions needed to detect a difference; None
        if unknown.
        """
        return None


def compute_margin_test_p_value(test: Test, null_value: float) -> float:
    """Return the p-value of the margin test, adjusted so that it never contradicts the test for a difference.

    A run that is worse by more than a margin is worse, and one that is better is above the
    margin: the two tests may differ in kind, but their results never contradict each other.
    """
    effect, p = test.effect, test.compute_p_value(null_value)
    lower, upper = sorted((null_value, effect.neutral_value))
    if lower <= effect.value <= upper:
        return p
    is_worse_by_more = (effect.value < null_value) == (null_value < effect.neutral_value)
    return max(p, effect.p) if is_worse_by_more else min(p, effect.p)


def effect_verdict_counts(
    wins: int | None, losses: int | None, ties: int | None, baseline_correct: int
) -> dict[str, Any]:
    counts = {"wins": wins, "losses": losses, "ties": ties, "baseline_correct": baseline_correct}
    return counts | {"clusters": None, "samples": 1}


FINEST = 0.001  # a difference of accuracies, as it is shown


def exclude_zero(low: float, high: float, is_above: bool) -> tuple[float, float]:
    return (max(low, FINEST), high) if is_above else (low, min(high, -FINEST))
