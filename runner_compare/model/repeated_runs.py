"""Select the runs of a job that count as repeats.

Repeats ran in separate processes on the same machine, without other load.
"""

from __future__ import annotations

from statistics import median

from runner_base.machine import EXCLUSIVE
from runner_compare.metrics import pool_metrics
from runner_compare.model.data import Run
from runner_compare.statistics import Measurements

MAX_RUNS = 20  # the latest ones of a job count


def select_repeats_without_contention(run: Run) -> list[Run]:
    """Return a run and those earlier runs of its job that ran on the same machine without load from
    other programs.

    If there are none, the run itself is returned.
    """
    alone = [
        single
        for single in (run, *run.earlier)
        if single.task_version == run.task_version
        and describe_contention(single) == EXCLUSIVE
        and join_machine_names(single) == join_machine_names(run)
    ]
    return alone[:MAX_RUNS] or [run]


def list_repeated_metric_values(run: Run, metric: str) -> list[float]:
    """Return a metric's value in each repeat, newest first.

    The values of pooled jobs are combined.
    """
    rounds = zip(*(select_repeats_without_contention(part) for part in run.parts or [run]), strict=False)
    values = (pool_metrics(run.metrics for run in runs).get(metric, 0.0) for runs in rounds)
    return [value for value in values if value > 0]


def collect_repeated_measurements(run: Run, measure: str, newest_repeats: list[float]) -> Measurements:
    """Return the repeated measurements of a job's newest run, and one value for each process that ran
    the job.
    """
    if run.has_fresh_processes:
        return Measurements(newest_repeats, newest_repeats, has_fresh_processes=True)
    figures = [
        median(newest_repeats) if counted_run is run else counted_run.metrics[measure]
        for counted_run in select_repeats_without_contention(run)
        if counted_run is run or counted_run.metrics.get(measure, 0.0) > 0
    ]
    return Measurements(newest_repeats, figures)


def describe_contention(run: Run) -> str:
    facts = [part.facts.get("measured", EXCLUSIVE) for part in run.parts or [run]]
    return next((beside for beside in facts if beside != EXCLUSIVE), EXCLUSIVE)


def join_machine_names(run: Run) -> str:
    return " and ".join(sorted({part.facts.get("machine", "an unknown one") for part in run.parts or [run]}))
