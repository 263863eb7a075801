"""Student's t test of speed, time, memory or energy, measured in several processes of each job."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any

from runner_compare.statistics.effects import Effect, Method, Test
from runner_compare.statistics.run_ratios import MIN_RUNS, RunRatio, plan_runs_per_job
from runner_compare.statistics.stats import POWER

MIN_REPEATS = 2  # a side, in one process: a single one has no range


@dataclass(frozen=True)
class Measurements:
    """Repeated measurements of one quantity in one job. All values are positive."""

    repeats: Sequence[float]  # of the newest run
    runs: Sequence[float]  # one figure for each process
    has_fresh_processes: bool = False  # whether each repeat was a process of its own


@dataclass(frozen=True)
class StudentTTest(Test):
    """Student's t test of one quantity over the runs of two jobs.

    With too few runs it only reports the range of repeats.
    """

    measure: str
    run: Measurements
    baseline: Measurements

    @property
    def has_enough_runs(self) -> bool:
        return min(len(self.run.runs), len(self.baseline.runs)) >= MIN_RUNS

    @cached_property
    def run_ratio(self) -> RunRatio:
        return RunRatio.from_run_values(self.run.runs, self.baseline.runs)

    def compute_effect(self) -> Effect:
        if not self.has_enough_runs:
            return self._compute_ratio_of_repeat_medians()
        low, high = self.run_ratio.compute_interval()
        return self._create_ratio_effect(
            Method.student_t, self.run_ratio.ratio, low, high, self.run_ratio.compute_p_value_against(1.0)
        )

    def _compute_ratio_of_repeat_medians(self) -> Effect:
        """Return the ratio of the medians of two runs, with the range of their repeats."""
        repeats, baseline = self.run.repeats, self.baseline.repeats
        low, high = min(repeats) / max(baseline), max(repeats) / min(baseline)
        if min(len(repeats), len(baseline)) < MIN_REPEATS:
            low, high = -math.inf, math.inf
        return self._create_ratio_effect(
            Method.too_few_runs, median(repeats) / median(baseline), low, high, 1.0
        )

    def _create_ratio_effect(self, method: Method, value: float, low: float, high: float, p: float) -> Effect:
        counts: dict[str, Any] = {
            "repeats": len(self.run.repeats),
            "baseline_repeats": len(self.baseline.repeats),
            "has_fresh_processes": self.run.has_fresh_processes,
        }
        n, baseline_n = len(self.run.runs), len(self.baseline.runs)
        return Effect(method, self.measure, value, low, high, p, n, baseline_n, counts, is_ratio=True)

    def compute_interval_at_level(self, alpha: float) -> tuple[float, float]:
        """Return the confidence interval or, with too few runs, the range of the repeats."""
        return (
            self.run_ratio.compute_interval(alpha)
            if self.has_enough_runs
            else (self.effect.low, self.effect.high)
        )

    def compute_p_value(self, null_value: float) -> float:
        return self.run_ratio.compute_p_value_against(null_value)

    @property
    def can_plan(self) -> bool:
        return self.has_enough_runs

    def plan_sample_size_for_margin(self, margin: float, level: float, power: float = POWER) -> int | None:
        """Return the number of runs per job needed to decide about a margin."""
        n, baseline_n = len(self.run.runs), len(self.baseline.runs)
        # of a run, as if both sides had the same
        spread = self.run_ratio.error * math.sqrt(1 / (1 / n + 1 / baseline_n))
        return plan_runs_per_job(math.log1p(margin) / spread, level) if spread else None
