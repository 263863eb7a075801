"""Is a difference between two processes taken for one between two settings? `python bench/compare/runs_null.py`.

Two jobs are drawn whose speeds differ by nothing but noise: each run, that is each process, has an error of its own
(3 %, of several shapes), and its five repeats another one (2 %). Counted is how often a difference is named although
there is none, and how often the 95 % interval of another pair holds its true ratio, 1.1. The control applies the same
test to the repeats of one process each: a repeat counts as a run there. Then follow tables with many comparisons,
speeds that are worse by exactly the margin, and as many runs as the command says are needed.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

import numpy as np
from simulation import GOOD, Limits, Rate, Table, begin

from runner_compare.statistics import (
    ALPHA,
    MIN_RUNS,
    POWER,
    RATIOS,
    Decision,
    Finding,
    Measurements,
    StudentTTest,
    decide_comparisons_with_holm,
)
from runner_compare.statistics.run_ratios import CLEAR_DIFFERENCE, plan_runs_per_job

# noise of a run's and of a repeat's logarithm; repeats of a run
BETWEEN, WITHIN, REPEATS = (0.03, 0.02, 5)
SHAPES = ("normal", "skewed", "outliers", "two modes", "unequal")
RUNS = [(1, 1), (2, 2), (3, 3), (3, 10), (4, 4), (5, 5), (10, 10)]  # of the two sides
MARGIN, TRUE_RATIO = 0.05, 1.1
MEASURE = "decode_tok_per_s"

Logs = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def errors(generator: np.random.Generator, shape: str, size: tuple[int, ...], side: int) -> Logs:
    """Draw the errors of runs: `side` is 0 or 1, because with `unequal` noise the two sides have
    other spreads."""
    drawn: Logs = BETWEEN * generator.standard_normal(size)
    match shape:
        case "skewed":  # now and then much slower
            drawn = -BETWEEN * generator.exponential(size=size)
        case "outliers":  # one run in ten is slower by 6 % and more
            outlying = generator.random(size) < 0.1
            drawn = drawn / 2 - outlying * (2 + 5 * np.abs(generator.standard_normal(size))) * BETWEEN
        case "two modes":  # each run is of one of two kinds
            drawn = drawn / 5 - 2 * BETWEEN * (generator.random(size) < 0.5)
        case "unequal":
            drawn = drawn * (3.0, 0.7)[side]
    return drawn


def measured(logs: Logs, repeats: Logs) -> Measurements:
    """Return what a job measured: the medians of its runs, and the repeats of the newest one."""
    figures = np.exp(logs + np.median(repeats, axis=-1))
    return Measurements(np.exp(logs[0] + repeats[0]).tolist(), figures.tolist())


def jobs(
    generator: np.random.Generator, shape: str, runs: int, count: int, side: int = 0, ratio: float = 1.0
) -> list[Measurements]:
    """Draw jobs whose true speed is this ratio."""
    logs = math.log(ratio) + errors(generator, shape, (count, runs), side)
    repeats = WITHIN * generator.standard_normal((count, runs, REPEATS))
    return [measured(*one) for one in zip(logs, repeats, strict=True)]


def compared(ours: Sequence[Measurements], theirs: Sequence[Measurements]) -> list[Decision]:
    """Compare jobs one by one, each pair as a table of its own."""
    tests = [StudentTTest(MEASURE, one, other) for one, other in zip(ours, theirs, strict=True)]
    return [decision for test in tests for decision in decide_comparisons_with_holm([test])]


def named(ours: Sequence[Measurements], theirs: Sequence[Measurements]) -> Rate:
    """Return how often a difference is named."""
    return Rate(sum(it.finding is not Finding.open for it in compared(ours, theirs)), len(ours))


def covered(ours: Sequence[Measurements], theirs: Sequence[Measurements]) -> Rate:
    """Return how often an interval holds the true ratio, if our side is faster by it."""
    faster = [
        Measurements([TRUE_RATIO * value for value in it.repeats], [TRUE_RATIO * value for value in it.runs])
        for it in ours
    ]
    return Rate(sum(it.low <= TRUE_RATIO <= it.high for it in compared(faster, theirs)), len(ours))


def single(generator: np.random.Generator, pairs: int, limits: Limits) -> None:
    """Print the rates of single comparisons: false ones, and how often intervals over runs hold the
    truth."""
    heads = f"{'noise of runs':13}", "runs", "difference named %", "interval holds 1.1 %"
    title = f"equal jobs, {BETWEEN:.0%} between runs and {WITHIN:.0%} within: {pairs:,} pairs a line"
    table = Table(title, *heads, "control, repeats as runs: named %", "holds 1.1 %")
    for shape in SHAPES:
        for runs, their_runs in RUNS:
            ours = jobs(generator, shape, runs, pairs)
            theirs = jobs(generator, shape, their_runs, pairs, side=1)
            tested = min(runs, their_runs) >= MIN_RUNS
            as_runs = [[Measurements(it.repeats, it.repeats) for it in side] for side in (ours, theirs)]
            null, holds, *control = (
                count(*sides) for sides in ((ours, theirs), as_runs) for count in (named, covered)
            )
            table.row(shape, f"{runs}/{their_runs}", null, holds if tested else "no test, a range", *control)
            limits.false.append(null)
            limits.missed += [Rate(holds.of - holds.times, holds.of)] * tested


def families(generator: np.random.Generator, tables: int, limits: Limits) -> None:
    """Print how often a table with many comparisons names any difference where there is none."""
    title = f"tables of equal jobs against one baseline, Holm: {tables:,} tables a line"
    table = Table(title, f"{'noise of runs':13}", "rows", "runs", "any difference named %")
    for shape in SHAPES[:-1]:
        for rows in (5, 12):
            for runs in (3, 4, 5, 10):
                sides = [jobs(generator, shape, runs, tables) for _ in range(rows + 1)]
                wrong = 0
                for base, *others in zip(*sides, strict=True):
                    effects = decide_comparisons_with_holm(
                        [StudentTTest(MEASURE, one, base) for one in others]
                    )
                    wrong += any(it.finding is not Finding.open for it in effects)
                limits.false.append(Rate(wrong, tables))
                table.row(shape, rows, runs, limits.false[-1])


def margins(generator: np.random.Generator, pairs: int, limits: Limits) -> None:
    """Print the rates of *as good within 5 %*: at the margin, and with as many runs as are
    needed."""
    heads = f"{'noise of runs':13}", "true ratio", "runs", "called as good %"
    table = Table(f"--margin {MARGIN:.0%}: {pairs:,} pairs a line", *heads)

    def as_good(shape: str, runs: int, ratio: float) -> Rate:
        sides = (jobs(generator, shape, runs, pairs, 0, ratio), jobs(generator, shape, runs, pairs, 1))
        tests = [StudentTTest(MEASURE, *pair) for pair in zip(*sides, strict=True)]
        effects = [
            decision for test in tests for decision in decide_comparisons_with_holm([test], {RATIOS: MARGIN})
        ]
        rate = Rate(sum(it.verdict in GOOD for it in effects), pairs)
        table.row(shape, f"{ratio:.3f}", runs, rate)
        return rate

    for shape in SHAPES:
        limits.false += [as_good(shape, runs, 1 / (1 + MARGIN)) for runs in (3, 5, 10)]
    # 0.957: a median of five
    spread = math.hypot(BETWEEN, WITHIN * math.sqrt(math.pi / 2 / REPEATS) * 0.957)
    needed = plan_runs_per_job(math.log1p(MARGIN) / spread)
    assert needed is not None
    print(f"planned for {POWER:.0%}: {needed} runs each")
    limits.powers.append(as_good("normal", needed, 1.0))


def advice(generator: np.random.Generator, tables: int, limits: Limits) -> None:
    """Print how often the advised number of runs shows a difference of three spreads."""
    title = f"a difference of {CLEAR_DIFFERENCE:g} spreads, with as many runs as advised: {tables:,} tables a line"
    table = Table(title, "comparisons", "runs", "difference named %")
    for comparisons in (1, 5, 12):
        runs = plan_runs_per_job(CLEAR_DIFFERENCE, ALPHA / comparisons)
        assert runs is not None
        found = 0
        for _ in range(tables):
            logs = BETWEEN * generator.standard_normal((comparisons + 1, runs))
            logs[1] -= CLEAR_DIFFERENCE * BETWEEN
            base, *others = (Measurements([1.0], np.exp(line).tolist()) for line in logs)
            effects = decide_comparisons_with_holm([StudentTTest(MEASURE, one, base) for one in others])
            found += effects[0].finding is Finding.smaller
        limits.powers.append(Rate(found, tables))
        table.row(comparisons, runs, limits.powers[-1])


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    (pairs, generator, started), limits = begin("runs_null", __doc__), Limits()
    single(generator, pairs, limits)
    families(generator, pairs // 4, limits)
    margins(generator, pairs, limits)
    advice(generator, pairs // 4, limits)
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
