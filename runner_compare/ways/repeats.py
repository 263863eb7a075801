"""Compares what two jobs have measured over their runs: the cells of a sweep, the figures of a
memory benchmark."""

from __future__ import annotations

from runner_compare.model.data import NotPaired, Run
from runner_compare.model.repeated_runs import measured
from runner_compare.reader import Reader, no_repeats
from runner_compare.statistics import Compared, StudentT
from runner_compare.ways import Asked

# Runs are compared by the repeats of these metrics.
BY_REPEATS = ("cuda_peak_mib", "peak_over_baseline_mib", "peak_rss_mib", "steady_rss_mib", "load_s",
              "decode_tok_per_s", "output_tok_per_s", "ttft_s", "prompt_tok_per_s", "total_tok_per_s",
              "batch_latency_s")  # fmt: skip


def fits(run: Run) -> bool:
    """Whether a run has no verdicts."""
    return run.score is None


def compare(run: Run, base: Run, reader: Reader, _asked: Asked) -> list[Compared]:
    """Return the ratio to the baseline for every measure that both jobs have."""
    if run.task_version != base.task_version:
        versions = f"version {base.task_version}, this run with version {run.task_version}"
        raise NotPaired(f"measured differently: the baseline with {versions}")
    of_run, of_base = repeats_of(run, reader), repeats_of(base, reader)
    shared = [name for name in of_run if name in of_base and min(*of_run[name], *of_base[name]) > 0]
    if not shared:
        raise NotPaired(f"nothing was measured in both: {', '.join(of_run)}; {', '.join(of_base)}")
    return [
        Compared(StudentT(name, measured(run, name, of_run[name]), measured(base, name, of_base[name])))
        for name in shared
    ]


def repeats_of(run: Run, reader: Reader) -> dict[str, list[float]]:
    """Return the repeats of each measure that is compared, from the run's folder or from MLflow."""
    if "task.repeats" not in run.params:
        raise NotPaired(f"task={run.task} has neither verdicts nor repeats to compare by")
    for measures in reader.repeats(run):
        compared_measures = {
            name: measures[name] for key in BY_REPEATS for name in measures if name.partition("/")[0] == key
        }
        if compared_measures:
            return compared_measures
    raise no_repeats(run)
