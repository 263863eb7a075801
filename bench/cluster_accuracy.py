"""Does the interval of an accuracy hold if questions come in families?

`python bench/cluster_accuracy.py [--pairs 400] [--seed 0]`. Questions are drawn in families as in cluster_null.py, for
runs of known accuracy over all such families. Shown is how often the 95 % interval of a job contains the truth: the
one by families, which a job with task.cluster reports, and Wilson's, which treats the questions as independent. The
exit code is 1 if fewer than 94 % of the intervals by families do, beyond noise; the control is that Wilson's do not.
"""

from __future__ import annotations

import sys
import time

from cluster_null import SETTINGS, answers
from compare_null import Rate, begin

from runner.core.clustered_share import clustered_share_interval
from runner.core.stats import wilson_interval

COVERAGE = 0.94
FURTHER = [(6, 30, False, 0.8), (18, 11, False, 0.27), (30, 10, True, 0.99), (40, 25, True, 0.3)]


def main() -> int:
    """Simulate and print; 1 if the coverage is too low by more than noise."""
    jobs, generator, started = begin("cluster_accuracy", __doc__)
    broken = 0
    print(f"\n{jobs:,} jobs a line")
    print("families  size         accuracy   contain the truth       mean width    as independent: contain it, width")
    for families, mean, unequal, accuracy in [*(it[:4] for it in SETTINGS), *FURTHER]:
        inside, widths = [0, 0], [0.0, 0.0]
        for _ in range(jobs):
            (solved,), family = answers(generator, families, mean, unequal, [accuracy])
            by_families = clustered_share_interval(solved.tolist(), family.tolist())
            for way, (low, high) in enumerate((by_families, wilson_interval(int(solved.sum()), len(solved)))):
                inside[way] += low <= accuracy <= high
                widths[way] += 100 * (high - low) / jobs
        size, rate = f"{mean}{' unequal' * unequal}", Rate(inside[0], jobs)
        print(f"{families:8d}  {size:10s}  {accuracy:9.2f}   {rate}   {widths[0]:5.1f} points   "
              f"{100 * inside[1] / jobs:5.1f} %  {widths[1]:5.1f} points", flush=True)  # fmt: skip
        broken += rate.high < COVERAGE
    print(f"\nbelow 94 % beyond noise: {broken} of {len(SETTINGS) + len(FURTHER)}; "
          f"{time.perf_counter() - started:.0f} s")  # fmt: skip
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
