"""Compare repeated measurements of two jobs, e.g. cells of a speed sweep or memory metrics."""

from __future__ import annotations

from runner_compare.model.data import NotPaired, Run
from runner_compare.model.repeated_runs import collect_measurements
from runner_compare.reader import Reader, missing_repeats_error
from runner_compare.statistics import RunComparison, StudentTTest
from runner_compare.ways import PairingOptions

# Runs are compared by the repeats of these metrics.
BY_REPEATS = ("cuda_peak_mib", "peak_over_baseline_mib", "peak_rss_mib", "steady_rss_mib", "load_s",
              "decode_tok_per_s", "output_tok_per_s", "ttft_s", "prompt_tok_per_s", "total_tok_per_s",
              "batch_latency_s")  # fmt: skip


def can_compare_run(run: Run) -> bool:
    """Whether a run has no verdicts, so that measurements are compared."""
    return run.correct_and_total is None


def compare(run: Run, base: Run, reader: Reader, _pairing: PairingOptions) -> list[RunComparison]:
    """Return the ratio to the baseline for each measure that both jobs repeated."""
    if run.task_version != base.task_version:
        versions = f"version {base.task_version}, this run with version {run.task_version}"
        raise NotPaired(f"measured differently: the baseline with {versions}")
    of_run, of_base = load_compared_repeats(run, reader), load_compared_repeats(base, reader)
    shared = [name for name in of_run if name in of_base and min(*of_run[name], *of_base[name]) > 0]
    if not shared:
        raise NotPaired(f"nothing was measured in both: {', '.join(of_run)}; {', '.join(of_base)}")
    return [
        RunComparison(
            StudentTTest(
                name,
                collect_measurements(run, name, of_run[name]),
                collect_measurements(base, name, of_base[name]),
            )
        )
        for name in shared
    ]


def load_compared_repeats(run: Run, reader: Reader) -> dict[str, list[float]]:
    """Return the repeats of each compared measure, from the run's folder or from MLflow."""
    if "task.repeats" not in run.params:
        raise NotPaired(f"task={run.task} has neither verdicts nor repeats to compare by")
    for measures in reader.iter_repeats(run):
        compared_measures = {
            name: measures[name] for key in BY_REPEATS for name in measures if name.partition("/")[0] == key
        }
        if compared_measures:
            return compared_measures
    raise missing_repeats_error(run)
