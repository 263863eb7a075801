"""Does the interval of an accuracy hold for families? `python bench/compare/cluster_accuracy.py`.

Questions are drawn in families as in cluster_null.py, for runs of known accuracy over all such families. Shown is how
often the 95 % interval of a job contains the truth: the one by families, which a job with task.cluster reports, and as
the control Wilson's, which treats the questions as independent.
"""

from __future__ import annotations

import sys

from cluster_null import SETTINGS, answers
from simulation import Limits, Rate, Table, begin

from runner_compare.statistics.accuracy_intervals import clustered_accuracy_interval
from runner_compare.statistics.stats import compute_wilson_interval

FURTHER = [(6, 30, False, 0.8), (18, 11, False, 0.27), (30, 10, True, 0.99), (40, 25, True, 0.3)]


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    (jobs, generator, started), limits = begin("cluster_accuracy", __doc__), Limits()
    heads = (
        "families",
        "size      ",
        "accuracy",
        "contain the truth %",
        "mean width",
        "as independent",
        "width",
    )
    table = Table(f"{jobs:,} jobs a line", *heads)
    for families, mean, unequal, accuracy in [*(it[:4] for it in SETTINGS), *FURTHER]:
        inside, widths = [0, 0], [0.0, 0.0]
        for _ in range(jobs):
            (solved,), family = answers(generator, families, mean, unequal, [accuracy])
            by_families = clustered_accuracy_interval(solved.tolist(), family.tolist())
            for way, (low, high) in enumerate(
                (by_families, compute_wilson_interval(int(solved.sum()), len(solved)))
            ):
                inside[way] += low <= accuracy <= high
                widths[way] += 100 * (high - low) / jobs
        size, (rate, independent) = (f"{mean}{' unequal' * unequal}", (Rate(times, jobs) for times in inside))
        table.row(families, size, accuracy, rate, f"{widths[0]:.1f}", independent.plain, f"{widths[1]:.1f}")
        limits.missed.append(Rate(jobs - inside[0], jobs))
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
