"""Computes ratios of speed, time and memory between jobs, each measured in several processes.

Repeats within one process share its conditions (position in memory, state of the machine),
so they do not show how far the next process may differ. Each run counts by the median of
its repeats.

The test and the interval are Student's t on the logarithms of the runs, with Welch's
standard error and the degrees of freedom of the smaller side (Hsu, 1938): with normal noise
the level holds for any two spreads and any numbers of runs. Welch's own degrees of freedom
do not hold it for 3 and 10 runs, and one spread for both sides does not hold it for unequal
noise (runs_null.py). If runs have two modes, all runs of one side may be of one mode and
all of the other side of the other, with a probability of up to 2 / 2^runs. No p-value is
below that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean, variance

from runner_compare.statistics.stats import ALPHA, POWER, compute_student_quantile, student_p_value

MIN_RUNS = 3  # a side, for any test: two do not show a spread
# in standard deviations of a run: what the advice about the number of runs is for
CLEAR_DIFFERENCE = 3.0
MAX_RUNS = 10_000
# in standard errors; scipy's noncentral t is exact up to there, and the power is 1 anyway
MAX_DISTANCE = 30.0


@dataclass(frozen=True)
class RunRatio:
    """Ratio of the geometric means over two jobs' runs, with the standard error of the ratio's
    logarithm.
    """

    ratio: float
    error: float
    freedom: int
    runs: int  # of both sides together

    @classmethod
    def from_run_values(cls, runs: Sequence[float], baseline: Sequence[float]) -> RunRatio:
        """Compute the ratio from two or more positive values per job."""
        logs, baseline_logs = ([math.log(value) for value in side] for side in (runs, baseline))
        error = math.sqrt(variance(logs) / len(logs) + variance(baseline_logs) / len(baseline_logs))
        smaller = min(len(logs), len(baseline_logs))
        return cls(
            math.exp(fmean(logs) - fmean(baseline_logs)), error, smaller - 1, len(logs) + len(baseline_logs)
        )

    def compute_interval(self, alpha: float = ALPHA) -> tuple[float, float]:
        """Return the interval that excludes the true ratio with at most probability `alpha`."""
        factor = math.exp(compute_student_quantile(alpha, self.freedom) * self.error)
        return self.ratio / factor, self.ratio * factor

    def compute_p_value_against(self, null_ratio: float) -> float:
        distance = math.log(self.ratio / null_ratio)
        if abs(distance) < 1e-12:  # rounding of logarithms
            return 1.0
        return max(
            min_p_value(self.runs),
            student_p_value(distance / self.error, self.freedom) if self.error else 0.0,
        )


def min_p_value(total_runs: int) -> float:
    """Return the smallest p-value that a test of this number of runs can have.

    It is the probability that runs from two equally likely modes separate into the two jobs.
    """
    return 2.0 ** (1 - total_runs)


def compute_min_runs_per_job(alpha: float = ALPHA) -> int:
    runs = MIN_RUNS
    while min_p_value(2 * runs) >= alpha:
        runs += 1
    return runs


def plan_runs_per_job(standardized_difference: float, alpha: float = ALPHA) -> int | None:
    """Return the number of runs per job needed to detect a difference with 80 % power; None if
    above ten thousand.

    The difference is in standard deviations of a run.
    """
    low, high = MIN_RUNS - 1, MIN_RUNS
    while compute_power_from_run_count(high, standardized_difference, alpha) < POWER:
        low, high = high, 2 * high
        if low > MAX_RUNS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (
            (low, middle)
            if compute_power_from_run_count(middle, standardized_difference, alpha) >= POWER
            else (middle, high)
        )
    return high


@lru_cache(maxsize=1024)
def compute_power_from_run_count(runs: int, standardized_difference: float, alpha: float) -> float:
    """Return the power to detect a difference with this many runs per job.

    The difference is in standard deviations of a run.
    """
    from scipy.special import nctdtr  # only a plan needs it

    if min_p_value(2 * runs) >= alpha:
        return 0.0
    errors = min(standardized_difference * math.sqrt(runs / 2), MAX_DISTANCE)
    return 1 - float(nctdtr(2 * runs - 2, errors, compute_student_quantile(alpha, runs - 1)))
