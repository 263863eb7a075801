"""Add the variation between seeds to comparisons of runs that pool several seeds."""

from __future__ import annotations

from dataclasses import replace

from runner_compare.model.data import Run
from runner_compare.statistics import RunComparison, SeedTest


def add_seed_variation(compared: RunComparison, run: Run, base: Run) -> RunComparison:
    """Return the comparison with the seeds' contribution to its error, if a side pools several
    seeds.
    """
    if not (run.over_seeds or base.over_seeds):
        return compared
    whole = SeedTest(compared.test, seed_accuracies(run), seed_accuracies(base))
    if compared.ends is None:
        return replace(compared, test=whole)
    low, high = compared.ends
    low = SeedTest(
        low, seed_accuracies(run, cut_off_bound="at_worst"), seed_accuracies(base, cut_off_bound="at_best")
    )
    high = SeedTest(
        high, seed_accuracies(run, cut_off_bound="at_best"), seed_accuracies(base, cut_off_bound="at_worst")
    )
    return replace(compared, test=whole, ends=(low, high))


def seed_accuracies(run: Run, cut_off_bound: str = "") -> list[float]:
    """Return each seed's accuracy, or its bound for cut-off answers (`at_worst` or `at_best`)."""
    every = run.parts or [run]
    return [
        getattr(part.accuracy_bounds, cut_off_bound)
        if cut_off_bound and part.accuracy_bounds
        else part.accuracy_interval[0]
        for part in every
        if part.accuracy_interval is not None
    ]
