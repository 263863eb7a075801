"""Adds the variance between seeds to the tests of runs that combine several seeds."""

from __future__ import annotations

from dataclasses import replace

from runner_compare.model.data import Run
from runner_compare.statistics import RunComparison, SeedTest


def add_seed_variance_to_comparison(compared: RunComparison, run: Run, base: Run) -> RunComparison:
    """Add the variance between seeds to a comparison of runs that combine several seeds."""
    if not (run.over_seeds or base.over_seeds):
        return compared
    whole = SeedTest(compared.test, compute_seed_accuracies(run), compute_seed_accuracies(base))
    if compared.ends is None:
        return replace(compared, test=whole)
    low, high = compared.ends
    low = SeedTest(
        low,
        compute_seed_accuracies(run, cut_off_bound="at_worst"),
        compute_seed_accuracies(base, cut_off_bound="at_best"),
    )
    high = SeedTest(
        high,
        compute_seed_accuracies(run, cut_off_bound="at_best"),
        compute_seed_accuracies(base, cut_off_bound="at_worst"),
    )
    return replace(compared, test=whole, ends=(low, high))


def compute_seed_accuracies(run: Run, cut_off_bound: str = "") -> list[float]:
    """Return the accuracy of each seed.

    `cut_off_bound` selects a bound instead: `at_worst` or `at_best` count all cut-off answers as
    wrong or as correct.
    """
    every = run.parts or [run]
    return [
        getattr(part.accuracy_bounds, cut_off_bound)
        if cut_off_bound and part.accuracy_bounds
        else part.accuracy_interval[0]
        for part in every
        if part.accuracy_interval is not None
    ]
