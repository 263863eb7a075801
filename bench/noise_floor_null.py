"""How often is a finding called no larger than the baseline's difference from itself, and rightly?

`python bench/noise_floor_null.py [--tables 500] [--seed 0]`. A baseline is run again once or three times
(task.repeat=1, 2, 3), and a setting is compared with it. A run solves a question when its difficulty and a part of
this run, which is chance, stay below a bar. First the setting changes nothing: it is one more run of the baseline. Then
it is worse by 3, 5 or 10 points. With a drift, each run is also better or worse as a whole, by chance: as another
machine or library would make it. Counted are findings, those that are said to be no larger than the noise, and those
that stand without a word about noise. The verdicts and the words are runner-compare's own. The exit code is 1 if,
without a drift, more than 5 % of settings that change nothing have a finding that stands so, or more than 5 % of
findings of a true difference are called no larger, beyond noise.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
from compare_null import NORMAL, Drawn, Rate, Solved, drawn_run

from runner.compare.data import QuestionOutcome, TableRow
from runner.compare.noise_floor import beside_noise
from runner.compare.pairing import compare_pair
from runner.core.effects import Finding, judge
from runner.core.stats import ALPHA

SETTINGS = [(200, 0.7, 0.99), (200, 0.7, 0.8), (1319, 0.9, 0.95)]  # questions, accuracy, rho as in compare_null.py
REPEATS = (1, 3)
DRIFTS = (0.0, 0.02)  # standard deviation of a run's own accuracy
POINTS = (3, 5, 10)


def runs_of(
    generator: np.random.Generator, n: int, accuracy: float, rho: float, count: int, drift: float, gap: float
) -> Solved:
    """Draw the baseline, its repeats, and a setting that is worse by the gap."""
    hard, own = generator.standard_normal(n), generator.standard_normal((count, n))
    levels = np.clip(
        accuracy + drift * generator.standard_normal(count) - gap * (np.arange(count) == count - 1), 0.01, 0.99
    )
    bars = np.array([[NORMAL.inv_cdf(level)] for level in levels.tolist()])
    solved: Solved = rho**0.5 * hard + (1 - rho) ** 0.5 * own < bars
    return solved


def verdict(solved: Solved) -> TableRow:
    """Compare the last run with the first, beside the noise of the others."""
    reader = Drawn(solved.shape[1])
    runs = [drawn_run(f"run-{number}", line) for number, line in enumerate(solved)]
    for run, line in zip(runs, solved, strict=True):
        marks = (QuestionOutcome(solves, "the same prompt") for solves in line.tolist())
        reader.answers[run.run_id] = dict(zip(reader.questions, marks, strict=True))
    base = TableRow(runs[0], {}, is_baseline=True)
    rows = [TableRow(run, {}, baseline=base, effects=[compare_pair(run, runs[0], reader)]) for run in runs[1:]]
    for row in rows[:-1]:
        row.is_repeat = True
    judge(rows[-1].effects)
    beside_noise([base, *rows], reader)
    return rows[-1]


def rates(
    generator: np.random.Generator,
    tables: int,
    setting: tuple[int, float, float],
    repeats: int,
    drift: float,
    gap: float,
) -> tuple[Rate, Rate, Rate]:
    """Return how often there is a finding, one without a word about noise, and how many are called no larger."""
    found, plain, within = 0, 0, 0
    for _ in range(tables):
        it = verdict(runs_of(generator, *setting, 2 + repeats, drift, gap)).effect
        assert it is not None
        found += it.finding is not Finding.open
        within += "no larger than" in (it.remark or "")
        plain += it.finding is not Finding.open and "itself" not in (it.remark or "")
    return Rate(found, tables), Rate(plain, tables), Rate(within, max(1, found))


def main() -> int:
    """Simulate and print; 1 when a promise is broken by more than noise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    generator, started = np.random.default_rng(options.seed), time.perf_counter()
    print(f"python bench/noise_floor_null.py --tables {options.tables} --seed {options.seed}")
    print(f"{options.tables:,} tables a line")
    print("    n  accuracy   rho  drift  repeats  worse by                finding      no word about noise   of the "
          "findings: no larger")  # fmt: skip
    broken = []
    for drift in DRIFTS:
        for setting in SETTINGS:
            for repeats in REPEATS:
                for points in (0, *POINTS):
                    found, plain, within = rates(generator, options.tables, setting, repeats, drift, points / 100)
                    n, accuracy, rho = setting
                    print(f"{n:5d}  {accuracy:8.2f}  {rho:4.2f}  {100 * drift:3.0f} %  {repeats:7d}  {points:8d}  "
                          f"{found}  {plain}  {within}", flush=True)  # fmt: skip
                    if not drift and (within if points else plain).low > ALPHA:
                        broken.append(points)
    print(f"\nlines without a drift that are wrong in more than {100 * ALPHA:.0f} %, beyond noise: {len(broken)}; "
          f"{time.perf_counter() - started:.0f} s")  # fmt: skip
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
