"""Comparisons of runs that stand for several seeds: what the seeds vary by counts, too."""

from __future__ import annotations

from dataclasses import replace

from runner_compare.model.data import Run
from runner_compare.statistics import Compared, OverSeeds


def with_seeds(compared: Compared, run: Run, base: Run) -> Compared:
    """Return the comparison with what seeds add to its error, if one of the two runs has
    several."""
    if not (run.over_seeds or base.over_seeds):
        return compared
    whole = OverSeeds(compared.test, accuracies(run), accuracies(base))
    if compared.ends is None:
        return replace(compared, test=whole)
    low, high = compared.ends
    low = OverSeeds(low, accuracies(run, at="at_worst"), accuracies(base, at="at_best"))
    high = OverSeeds(high, accuracies(run, at="at_best"), accuracies(base, at="at_worst"))
    return replace(compared, test=whole, ends=(low, high))


def accuracies(run: Run, at: str = "") -> list[float]:
    """Return the accuracy of each seed, or that `at_worst` or `at_best` of what was cut off."""
    every = run.parts or [run]
    return [
        getattr(part.bounds, at) if at and part.bounds else part.interval[0]
        for part in every
        if part.interval is not None
    ]
