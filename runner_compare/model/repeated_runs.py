"""The runs of one job that count as repeats of its measurements: each in a process of its own,
alone on one machine."""

from __future__ import annotations

from statistics import median

from runner_base.machine import EXCLUSIVE
from runner_compare.metrics import pool
from runner_compare.model.data import Run
from runner_compare.statistics import Measured

MAX_RUNS = 20  # the latest ones of a job count


def counted_runs(run: Run) -> list[Run]:
    """Return the run and earlier ones of its job that had the same machine to themselves; else the
    run alone."""
    alone = [
        single
        for single in (run, *run.earlier)
        if single.task_version == run.task_version
        and contention(single) == EXCLUSIVE
        and machine_of(single) == machine_of(run)
    ]
    return alone[:MAX_RUNS] or [run]


def values_of(run: Run, metric: str) -> list[float]:
    """Return a metric of each run that counts, the newest first; of pooled jobs, over their newest
    runs, and so on."""
    rounds = zip(*(counted_runs(part) for part in run.parts or [run]), strict=False)
    values = (pool(run.metrics for run in runs).get(metric, 0.0) for runs in rounds)
    return [value for value in values if value > 0]


def measured(run: Run, measure: str, repeats: list[float]) -> Measured:
    """Return what a job has measured of one figure: the repeats of its newest run, and a figure for
    each process."""
    if run.has_fresh_processes:
        return Measured(repeats, repeats, has_fresh_processes=True)
    figures = [
        median(repeats) if counted_run is run else counted_run.metrics[measure]
        for counted_run in counted_runs(run)
        if counted_run is run or counted_run.metrics.get(measure, 0.0) > 0
    ]
    return Measured(repeats, figures)


def contention(run: Run) -> str:
    """Return what a run, or one of the pooled runs, was measured beside."""
    facts = [part.facts.get("measured", EXCLUSIVE) for part in run.parts or [run]]
    return next((beside for beside in facts if beside != EXCLUSIVE), EXCLUSIVE)


def machine_of(run: Run) -> str:
    """Return the machines of a run or of the pooled runs."""
    return " and ".join(sorted({part.facts.get("machine", "an unknown one") for part in run.parts or [run]}))
