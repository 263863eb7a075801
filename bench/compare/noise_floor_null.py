"""Is a finding rightly called no larger than the noise? `python bench/compare/noise_floor_null.py`.

A baseline is run again once or three times (task.repeat_index=1, 2, 3), and a setting is compared with it. First the
setting changes nothing: it is one more run of the baseline. Then it is worse by 3, 5 or 10 points. With a drift, each
run is also better or worse as a whole, by chance: as another machine or library would make it. Counted are findings,
those that are said to be no larger than the noise, and those that stand without a word about noise. Without a drift,
a setting that changes nothing may seldom stand so, and a true finding may seldom be called no larger.
"""

from __future__ import annotations

import sys
from itertools import product

import numpy as np
from simulation import NORMAL, Drawn, Limits, Rate, Solved, Table, begin

from runner_compare.model.data import TableRow
from runner_compare.model.noise_floor import add_baseline_noise_notes
from runner_compare.statistics import Finding, decide_comparisons_with_holm
from runner_compare.ways.verdicts import compare_pair

# questions, accuracy, rho as in simulation.answers
SETTINGS = [(200, 0.7, 0.99), (200, 0.7, 0.8), (1319, 0.9, 0.95)]
REPEATS = (1, 3)
DRIFTS = (0.0, 0.02)  # standard deviation of a run's own accuracy
POINTS = (3, 5, 10)


def runs_of(
    generator: np.random.Generator, n: int, accuracy: float, rho: float, count: int, drift: float, gap: float
) -> Solved:
    """Draw the baseline, its repeats, and a setting that is worse by the gap."""
    hard, own = generator.standard_normal(n), generator.standard_normal((count, n))
    levels = np.clip(
        accuracy + drift * generator.standard_normal(count) - gap * (np.arange(count) == count - 1),
        0.01,
        0.99,
    )
    bars = np.array([[NORMAL.inv_cdf(level)] for level in levels.tolist()])
    solved: Solved = rho**0.5 * hard + (1 - rho) ** 0.5 * own < bars
    return solved


def verdict(solved: Solved) -> TableRow:
    """Compare the last run with the first, beside the noise of the others."""
    reader = Drawn(solved.shape[1])
    runs = [reader.add(f"run-{number}", line) for number, line in enumerate(solved)]
    base = TableRow(runs[0], {}, is_baseline=True)
    # each by itself
    compared = [(run, decide_comparisons_with_holm([compare_pair(run, runs[0], reader)])) for run in runs[1:]]
    rows = [TableRow(run, {}, baseline=base, effects=decisions) for run, decisions in compared]
    for row in rows[:-1]:
        row.is_repeat = True
    add_baseline_noise_notes([base, *rows], reader)
    return rows[-1]


def rates(
    generator: np.random.Generator,
    tables: int,
    setting: tuple[int, float, float],
    repeats: int,
    drift: float,
    gap: float,
) -> tuple[Rate, Rate, Rate]:
    """Return how often there is a finding, one without a word about noise, and how many are called
    no larger."""
    found, plain, within = 0, 0, 0
    for _ in range(tables):
        it = verdict(runs_of(generator, *setting, 2 + repeats, drift, gap)).effect
        assert it is not None
        found += it.finding is not Finding.open
        codes = {remark.code for remark in it.remarks}
        within += "within_noise" in codes
        plain += it.finding is not Finding.open and codes.isdisjoint({"within_noise", "beside_noise"})
    return Rate(found, tables), Rate(plain, tables), Rate(within, max(1, found))


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    (tables, generator, started), limits = (begin("noise_floor_null", __doc__, 500, "tables"), Limits())
    heads = "n", "accuracy", "rho", "drift", "repeats", "worse by"
    rates_heads = "finding %", "no word about noise %", "of the findings: no larger %"
    table = Table(f"{tables:,} tables a line", *heads, *rates_heads)
    for drift, setting, repeats, points in product(DRIFTS, SETTINGS, REPEATS, (0, *POINTS)):
        found, plain, within = rates(generator, tables, setting, repeats, drift, points / 100)
        table.row(*setting, f"{drift:.0%}", repeats, points, found, plain, within)
        if not drift:
            limits.false.append(within if points else plain)
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
