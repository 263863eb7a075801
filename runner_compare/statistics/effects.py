"""What a statistic is: a Test takes the data of two runs and has their Effect; `decisions.judge`
decides on all.

Each method is a module of `methods`, with one Test. What a test does not know stays as it is here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

from runner_compare.metrics import Better
from runner_compare.statistics.sequential import Side
from runner_compare.statistics.stats import ALPHA, POWER, normal_bound


class Method(StrEnum):
    """The tests whose names others ask for; a name that nobody asks for is not among them."""

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
Between = tuple[int | None, int | None]


@dataclass(frozen=True)
class Effect:
    """By how much a run differs from its baseline: a value with its interval, and the p of a test.

    A difference is this run minus the baseline, a ratio this run over the baseline.
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
    better: Better = Better.higher  # which direction of the measure is better
    # these share 5 %, as fixed before the run; None: those of the table do
    early_stop_comparisons: int | None = None

    def __post_init__(self) -> None:
        """Widen an interval that excludes the neutral value although the test, which decides, does
        not reject it."""
        if self.p >= ALPHA and self.is_tested:
            object.__setattr__(self, "low", min(self.low, self.neutral))
            object.__setattr__(self, "high", max(self.high, self.neutral))

    @property
    def is_tested(self) -> bool:
        """Whether a test decides about it; otherwise low and high are a range, and p means
        nothing."""
        return self.method is not Method.too_few_runs

    @property
    def neutral(self) -> float:
        """The value of two runs that do not differ."""
        return 1.0 if self.is_ratio else 0.0


class Test(ABC):
    """A method on the data of two runs. A subclass is a frozen dataclass of these data."""

    __test__ = False  # pytest would take it for a class of tests

    @cached_property
    def effect(self) -> Effect:
        """By how much the run differs from its baseline, computed once."""
        return self.compare()

    @abstractmethod
    def compare(self) -> Effect:
        """Compute the effect."""

    def interval_at(self, alpha: float) -> tuple[float, float]:
        """Return an interval that misses the true value with at most this probability.

        Unless a method knows better, its 95 % interval is stretched as that of a normal estimate.
        """
        effect = self.effect
        stretch = normal_bound(alpha) / normal_bound(ALPHA)
        if effect.is_ratio:
            low, high = (effect.value * (end / effect.value) ** stretch for end in (effect.low, effect.high))
            return low, high
        low, high = (effect.value + stretch * (end - effect.value) for end in (effect.low, effect.high))
        return low, high

    def p_at(self, value: float) -> float:
        """Return the two-sided p against a true value; as long as it is 1, nothing is shown about a
        margin."""
        return 1.0

    def side_of(self, value: float) -> Side:
        """Return on which side of a value its bets see the truth, at the share that was fixed
        before the run."""
        raise NotImplementedError(f"{type(self).__name__} has no bets")

    @property
    def knows_power(self) -> bool:
        """Whether it knows which true differences it detects."""
        return False

    def detects(self, level: float) -> float | None:
        """Return the smallest true difference that is detected at a level; None if none is."""
        return None

    @property
    def has_worst_case(self) -> bool:
        """Whether a difference is harder to detect where few questions or families have all of
        it."""
        return False

    def detects_at_worst(self, level: float) -> float | None:
        """Return the smallest difference that is detected even there; None if none is."""
        return None

    @property
    def can_plan(self) -> bool:
        """Whether it knows how many questions, or runs a side, decide about a margin."""
        return False

    def needs(self, margin: float, level: float, power: float = POWER) -> int | None:
        """Return the questions or runs that decide about a margin if neither run is better; None:
        too many."""
        return None

    def needs_between(self, margin: float, level: float, power: float = POWER) -> Between | None:
        """Return the 95 % interval of what is needed to decide about a margin; None: unknown."""
        return None

    @property
    def can_plan_detection(self) -> bool:
        """Whether it knows how many questions detect a difference."""
        return False

    def needs_to_detect(self, difference: float, level: float, power: float = POWER) -> int | None:
        """Return the questions that detect a true difference; None: too many."""
        return None

    def needs_to_detect_between(
        self, difference: float, level: float, power: float = POWER
    ) -> Between | None:
        """Return the 95 % interval of what detects a difference; None: unknown."""
        return None


def p_beyond(test: Test, limit: float) -> float:
    """Return the two-sided p against a limit on the worse side of the neutral value, together with
    the test there.

    A run that is worse by more than a margin is worse, and one that is better is above the margin:
    the two tests may differ in kind, but what they show never contradicts.
    """
    effect, p = test.effect, test.p_at(limit)
    lower, upper = sorted((limit, effect.neutral))
    if lower <= effect.value <= upper:
        return p
    is_worse_by_more = (effect.value < limit) == (limit < effect.neutral)
    return max(p, effect.p) if is_worse_by_more else min(p, effect.p)


def verdict_counts(
    wins: int | None, losses: int | None, ties: int | None, baseline_correct: int
) -> dict[str, Any]:
    """Return the counts of an effect of verdicts."""
    counts = {"wins": wins, "losses": losses, "ties": ties, "baseline_correct": baseline_correct}
    return counts | {"clusters": None, "samples": 1}


FINEST = 0.001  # a difference of accuracies, as it is shown


def without_zero(low: float, high: float, is_above: bool) -> tuple[float, float]:
    """Return an interval without 0, which the test that decides has rejected."""
    return (max(low, FINEST), high) if is_above else (low, min(high, -FINEST))
