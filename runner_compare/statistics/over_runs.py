"""Ratios of speeds, times and memory over runs: the unit is the run, that is a process of its own.

Repeats within one process share whatever that process happened to get (its place in memory, the
state of the machine at that time), so they do not show how far the next process may be from them.
Each run counts by the median of its repeats.

The test and the interval are Student's t on the logarithms of the runs, with Welch's standard error
and the degrees of freedom of the smaller side (Hsu, 1938): with normal noise the level holds for
any two spreads and any numbers of runs. Welch's own degrees of freedom do not hold it for 3 and 10
runs, one spread for both sides does not hold it for unequal noise (runs_null.py). If runs have two
modes, it happens with a probability of up to 2 / 2^runs that all runs of one side are of one mode
and all of the other side of the other. No p is below that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean, variance

from runner_compare.statistics.stats import ALPHA, POWER, student_p, student_quantile

MIN_RUNS = 3  # a side, for any test: two do not show a spread
# in standard deviations of a run: what the advice about the number of runs is for
CLEAR_DIFFERENCE = 3.0
MAX_RUNS = 10_000
# in standard errors; scipy's noncentral t is exact up to there, and the power is 1 anyway
MAX_DISTANCE = 30.0


@dataclass(frozen=True)
class RatioOfRuns:
    """The ratio of two geometric means over runs, with the standard error of its logarithm."""

    ratio: float
    error: float
    freedom: int
    runs: int  # of both sides together

    @classmethod
    def of(cls, runs: Sequence[float], baseline: Sequence[float]) -> RatioOfRuns:
        """Return the ratio of two samples, each of two or more values above 0."""
        logs, baseline_logs = ([math.log(value) for value in side] for side in (runs, baseline))
        error = math.sqrt(variance(logs) / len(logs) + variance(baseline_logs) / len(baseline_logs))
        smaller = min(len(logs), len(baseline_logs))
        return cls(
            math.exp(fmean(logs) - fmean(baseline_logs)), error, smaller - 1, len(logs) + len(baseline_logs)
        )

    def interval(self, alpha: float = ALPHA) -> tuple[float, float]:
        """Return the interval that leaves out the true ratio with at most this probability."""
        factor = math.exp(student_quantile(alpha, self.freedom) * self.error)
        return self.ratio / factor, self.ratio * factor

    def p_at(self, ratio: float) -> float:
        """Return the two-sided p against a true ratio."""
        distance = math.log(self.ratio / ratio)
        if abs(distance) < 1e-12:  # rounding of logarithms
            return 1.0
        return max(least_p(self.runs), student_p(distance / self.error, self.freedom) if self.error else 0.0)


def least_p(runs: int) -> float:
    """Return the probability that runs of two equally likely modes split exactly into the two
    sides."""
    return 2.0 ** (1 - runs)


def fewest_runs(alpha: float = ALPHA) -> int:
    """Return how many runs a side can show anything at this level."""
    runs = MIN_RUNS
    while least_p(2 * runs) >= alpha:
        runs += 1
    return runs


def runs_needed(distance: float, alpha: float = ALPHA) -> int | None:
    """Return how many runs a side show a distance, in standard deviations of a run, with 80 %
    power.

    None if ten thousand are not enough.
    """
    low, high = MIN_RUNS - 1, MIN_RUNS
    while power_of(high, distance, alpha) < POWER:
        low, high = high, 2 * high
        if low > MAX_RUNS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(middle, distance, alpha) >= POWER else (middle, high)
    return high


@lru_cache(maxsize=1024)
def power_of(runs: int, distance: float, alpha: float) -> float:
    """Return the probability that so many runs a side show a distance, given in standard deviations
    of a run."""
    from scipy.special import nctdtr  # only a plan needs it

    if least_p(2 * runs) >= alpha:
        return 0.0
    errors = min(distance * math.sqrt(runs / 2), MAX_DISTANCE)
    return 1 - float(nctdtr(2 * runs - 2, errors, student_quantile(alpha, runs - 1)))
