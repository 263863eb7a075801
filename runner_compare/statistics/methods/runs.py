"""Runs of a measurement: Student's t over processes, and with too few of them no test at all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any

from runner_compare.statistics.effects import Effect, Method, Test
from runner_compare.statistics.over_runs import MIN_RUNS, RatioOfRuns, runs_needed
from runner_compare.statistics.stats import POWER

MIN_REPEATS = 2  # a side, in one process: a single one has no range


@dataclass(frozen=True)
class Measured:
    """What one side has measured of one figure, all above 0."""

    repeats: Sequence[float]  # of the newest run
    runs: Sequence[float]  # one figure for each process
    has_fresh_processes: bool = False  # whether each repeat was a process of its own


@dataclass(frozen=True)
class StudentT(Test):
    """A figure over runs of both sides; with too few of them it is only said how far apart repeats
    were."""

    measure: str
    run: Measured
    baseline: Measured

    @property
    def has_enough(self) -> bool:
        """Whether there are enough runs for a test."""
        return min(len(self.run.runs), len(self.baseline.runs)) >= MIN_RUNS

    @cached_property
    def over(self) -> RatioOfRuns:
        """The ratio of the runs' geometric means."""
        return RatioOfRuns.of(self.run.runs, self.baseline.runs)

    def compare(self) -> Effect:
        """Compute the effect."""
        if not self.has_enough:
            return self._of_repeats()
        low, high = self.over.interval()
        return self._ratio(Method.student_t, self.over.ratio, low, high, self.over.p_at(1.0))

    def _of_repeats(self) -> Effect:
        """Say by how much the medians of two processes differ, and the range of their repeats."""
        repeats, baseline = self.run.repeats, self.baseline.repeats
        low, high = min(repeats) / max(baseline), max(repeats) / min(baseline)
        if min(len(repeats), len(baseline)) < MIN_REPEATS:
            low, high = -math.inf, math.inf
        return self._ratio(Method.too_few_runs, median(repeats) / median(baseline), low, high, 1.0)

    def _ratio(self, method: Method, value: float, low: float, high: float, p: float) -> Effect:
        counts: dict[str, Any] = {
            "repeats": len(self.run.repeats),
            "baseline_repeats": len(self.baseline.repeats),
            "has_fresh_processes": self.run.has_fresh_processes,
        }
        n, baseline_n = len(self.run.runs), len(self.baseline.runs)
        return Effect(method, self.measure, value, low, high, p, n, baseline_n, counts, is_ratio=True)

    def interval_at(self, alpha: float) -> tuple[float, float]:
        """Return the interval at another level; too few runs have only the range of repeats."""
        return self.over.interval(alpha) if self.has_enough else (self.effect.low, self.effect.high)

    def p_at(self, value: float) -> float:
        """Return the two-sided p against a true ratio."""
        return self.over.p_at(value)

    @property
    def can_plan(self) -> bool:
        """Whether there is a spread of runs to plan from."""
        return self.has_enough

    def needs(self, margin: float, level: float, power: float = POWER) -> int | None:
        """Return the runs a side that decide about a margin."""
        n, baseline_n = len(self.run.runs), len(self.baseline.runs)
        # of a run, as if both sides had the same
        spread = self.over.error * math.sqrt(1 / (1 / n + 1 / baseline_n))
        return runs_needed(math.log1p(margin) / spread, level) if spread else None
