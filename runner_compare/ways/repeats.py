"""Compares repeated measurements of two jobs, such as the speeds of a sweep or memory metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from runner_compare.model.data import NotPaired, Run
from runner_compare.model.repeated_runs import collect_repeated_measurements
from runner_compare.reader import Reader, missing_repeats_error
from runner_compare.statistics import RunComparison, StudentTTest
from runner_compare.ways import PairingOptions

Measured = TypeVar("Measured")

# Runs are compared by the repeats of these metrics.
MEMORY = ("cuda_peak_mib", "peak_over_baseline_mib", "peak_rss_mib", "steady_rss_mib")
BY_REPEATS = (*MEMORY, "load_s", "decode_tok_per_s", "output_tok_per_s", "ttft_s", "prompt_tok_per_s",
              "total_tok_per_s", "batch_latency_s")  # fmt: skip


def can_compare_run(run: Run) -> bool:
    return run.correct_and_total is None


def compare_with_baseline(
    run: Run, base: Run, reader: Reader, _pairing: PairingOptions
) -> list[RunComparison]:
    """Compare each measure that both jobs measured repeatedly, by the ratio of run to baseline."""
    if run.task_version != base.task_version:
        versions = f"{run.task_version} in the run and {base.task_version} in the baseline"
        raise NotPaired(f"the task version is {versions}")
    of_run, of_base = load_compared_repeats(run, reader), load_compared_repeats(base, reader)
    shared = [name for name in of_run if name in of_base and min(*of_run[name], *of_base[name]) > 0]
    if not shared:
        raise NotPaired(
            f"the runs share no measure: the run has {', '.join(of_run)}, "
            f"the baseline has {', '.join(of_base)}"
        )
    return [
        RunComparison(
            StudentTTest(
                name,
                collect_repeated_measurements(run, name, of_run[name]),
                collect_repeated_measurements(base, name, of_base[name]),
            )
        )
        for name in shared
    ]


def load_compared_repeats(run: Run, reader: Reader) -> dict[str, list[float]]:
    """Return the repeats of each compared measure, from the run's folder or from MLflow."""
    if "task.repeats" not in run.params:
        raise NotPaired(f"runs of task={run.task} have neither verdicts nor repeated measurements to compare")
    for measures in reader.iter_repeated_measurements(run):
        if compared_measures := select_compared_measures(measures):
            return compared_measures
    raise missing_repeats_error(run)


def select_compared_measures(measures: Mapping[str, Measured]) -> dict[str, Measured]:
    return {name: measures[name] for key in BY_REPEATS for name in measures if name.partition("/")[0] == key}


def is_speed(measure: str) -> bool:
    """Return whether a compared measure is a speed or a time, which depends on the machine."""
    return measure.partition("/")[0] not in MEMORY
