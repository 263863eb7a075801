"""Is a difference between two processes taken for one between two settings? `python bench/runs_null.py [--pairs 4000]`.

Two jobs are drawn whose speeds differ by nothing but noise: each run, that is each process, has an error of its own
(3 %, of several shapes), and its five repeats another one (2 %). runner-compare's own functions compare them. Counted
is how often a difference is named although there is none, and how often the 95 % interval of another pair holds its
true ratio, 1.1. The control applies the same test to the repeats of one process each: a repeat counts as a run there.
Then follow tables with many comparisons, speeds that are worse by exactly the margin, and as many runs as the command
says are needed. Rates have their 95 % intervals (Wilson). The exit code is 1 if a false rate is above 5 %, a coverage
below 94 % or a power below 77 %, beyond noise.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence

import numpy as np
from compare_null import SLACK, Rate, begin

from runner.core.effects import RATIOS, Effect, Finding, judge
from runner.core.margins import MarginVerdict
from runner.core.number_effects import Measured, ratio_of_measurements
from runner.core.over_runs import CLEAR_DIFFERENCE, MIN_RUNS, runs_needed
from runner.core.stats import ALPHA, POWER

BETWEEN, WITHIN, REPEATS = 0.03, 0.02, 5  # noise of a run's and of a repeat's logarithm; repeats of a run
SHAPES = ("normal", "skewed", "outliers", "two modes", "unequal")
RUNS = [(1, 1), (2, 2), (3, 3), (3, 10), (4, 4), (5, 5), (10, 10)]  # of the two sides
MARGIN, TRUE_RATIO = 0.05, 1.1
MIN_COVERAGE = 0.94
MEASURE = "decode_tok_per_s"
GOOD = {MarginVerdict.better, MarginVerdict.as_good, MarginVerdict.worse_but_within}

Logs = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def errors(generator: np.random.Generator, shape: str, size: tuple[int, ...], side: int) -> Logs:
    """Draw the errors of runs: `side` is 0 or 1, because with `unequal` noise the two sides have other spreads."""
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


def measured(logs: Logs, repeats: Logs) -> Measured:
    """Return what a job measured: the medians of its runs, and the repeats of the newest one."""
    figures = np.exp(logs + np.median(repeats, axis=-1))
    return Measured(np.exp(logs[0] + repeats[0]).tolist(), figures.tolist())


def jobs(
    generator: np.random.Generator, shape: str, runs: int, count: int, side: int = 0, ratio: float = 1.0
) -> list[Measured]:
    """Draw jobs whose true speed is this ratio."""
    logs = math.log(ratio) + errors(generator, shape, (count, runs), side)
    repeats = WITHIN * generator.standard_normal((count, runs, REPEATS))
    return [measured(*one) for one in zip(logs, repeats, strict=True)]


def compared(ours: Sequence[Measured], theirs: Sequence[Measured]) -> list[Effect]:
    """Compare jobs one by one, each pair as a table of its own."""
    effects = [ratio_of_measurements(MEASURE, one, other) for one, other in zip(ours, theirs, strict=True)]
    for it in effects:
        judge([it])
    return effects


def named(ours: Sequence[Measured], theirs: Sequence[Measured]) -> Rate:
    """Return how often a difference is named."""
    return Rate(sum(it.finding is not Finding.open for it in compared(ours, theirs)), len(ours))


def covered(ours: Sequence[Measured], theirs: Sequence[Measured]) -> Rate:
    """Return how often an interval holds the true ratio, if our side is faster by it."""
    faster = [
        Measured([TRUE_RATIO * value for value in it.repeats], [TRUE_RATIO * value for value in it.runs]) for it in ours
    ]
    return Rate(sum(it.low <= TRUE_RATIO <= it.high for it in compared(faster, theirs)), len(ours))


def single(generator: np.random.Generator, pairs: int) -> tuple[list[Rate], list[Rate]]:
    """Print the rates of single comparisons; return the false rates and the coverages of intervals over runs."""
    falses, coverages = [], []
    print(f"\nequal jobs, {100 * BETWEEN:.0f} % between runs and {100 * WITHIN:.0f} % within: {pairs:,} pairs a line")
    print(
        "noise of runs   runs  difference named        interval holds 1.1      "
        "control, repeats as runs: named, holds 1.1"
    )
    for shape in SHAPES:
        for runs, their_runs in RUNS:
            ours = jobs(generator, shape, runs, pairs)
            theirs = jobs(generator, shape, their_runs, pairs, side=1)
            tested = min(runs, their_runs) >= MIN_RUNS
            as_runs = [[Measured(it.repeats, it.repeats) for it in side] for side in (ours, theirs)]
            null, holds, control, control_holds = (
                count(*sides) for sides in ((ours, theirs), as_runs) for count in (named, covered)
            )
            words = str(holds) if tested else "no test, a range      "
            print(f"{shape:13s}  {runs:2d}/{their_runs:<2d}  {null}  {words}  {control}  {control_holds}", flush=True)
            falses.append(null)
            coverages += [holds] * tested
    return falses, coverages


def families(generator: np.random.Generator, tables: int) -> list[Rate]:
    """Print and return how often a table with many comparisons names any difference where there is none."""
    falses = []
    print(f"\ntables of equal jobs against one baseline, Holm: {tables:,} tables a line")
    print("noise of runs  rows  runs  any difference named")
    for shape in SHAPES[:-1]:
        for rows in (5, 12):
            for runs in (3, 4, 5, 10):
                sides = [jobs(generator, shape, runs, tables) for _ in range(rows + 1)]
                wrong = 0
                for base, *others in zip(*sides, strict=True):
                    effects = [ratio_of_measurements(MEASURE, one, base) for one in others]
                    judge(effects)
                    wrong += any(it.finding is not Finding.open for it in effects)
                falses.append(Rate(wrong, tables))
                print(f"{shape:13s}  {rows:4d}  {runs:4d}  {falses[-1]}", flush=True)
    return falses


def margins(generator: np.random.Generator, pairs: int) -> tuple[list[Rate], list[Rate]]:
    """Print and return the rates of *as good within 5 %*: at the margin, and with as many runs as are needed."""
    falses, powers = [], []
    print(f"\n--margin {100 * MARGIN:.0f}%: {pairs:,} pairs a line")
    print("noise of runs  true ratio  runs  called as good")

    def as_good(shape: str, runs: int, ratio: float) -> Rate:
        effects = [
            ratio_of_measurements(MEASURE, *pair)
            for pair in zip(
                jobs(generator, shape, runs, pairs, 0, ratio), jobs(generator, shape, runs, pairs, 1), strict=True
            )
        ]
        for it in effects:
            it.needs = None  # not of interest here, and it takes long
            judge([it], {RATIOS: MARGIN})
        rate = Rate(sum(it.verdict in GOOD for it in effects), pairs)
        print(f"{shape:13s}  {ratio:10.3f}  {runs:4d}  {rate}", flush=True)
        return rate

    for shape in SHAPES:
        falses += [as_good(shape, runs, 1 / (1 + MARGIN)) for runs in (3, 5, 10)]
    spread = math.hypot(BETWEEN, WITHIN * math.sqrt(math.pi / 2 / REPEATS) * 0.957)  # 0.957: a median of five
    needed = runs_needed(math.log1p(MARGIN) / spread)
    assert needed is not None
    print(f"planned for {100 * POWER:.0f} %: {needed} runs each")
    powers.append(as_good("normal", needed, 1.0))
    return falses, powers


def advice(generator: np.random.Generator, tables: int) -> list[Rate]:
    """Print and return how often the advised number of runs shows a difference of three spreads."""
    powers = []
    print(f"\na difference of {CLEAR_DIFFERENCE:g} spreads, with as many runs as advised: {tables:,} tables a line")
    print("comparisons  runs  difference named")
    for comparisons in (1, 5, 12):
        runs = runs_needed(CLEAR_DIFFERENCE, ALPHA / comparisons)
        assert runs is not None
        found = 0
        for _ in range(tables):
            logs = BETWEEN * generator.standard_normal((comparisons + 1, runs))
            logs[1] -= CLEAR_DIFFERENCE * BETWEEN
            base, *others = (Measured([1.0], np.exp(line).tolist()) for line in logs)
            effects = [ratio_of_measurements(MEASURE, one, base) for one in others]
            judge(effects)
            found += effects[0].finding is Finding.smaller
        powers.append(Rate(found, tables))
        print(f"{comparisons:11d}  {runs:4d}  {powers[-1]}", flush=True)
    return powers


def main() -> int:
    """Simulate and print; 1 if a rate breaks its promise."""
    pairs, generator, started = begin("runs_null", __doc__)
    falses, coverages = single(generator, pairs)
    falses += families(generator, pairs // 4)
    at_margin, powers = margins(generator, pairs)
    falses += at_margin
    powers += advice(generator, pairs // 4)
    high = [rate for rate in falses if rate.low > ALPHA]
    low = [rate for rate in coverages if rate.high < MIN_COVERAGE]
    weak = [rate for rate in powers if rate.high < POWER - SLACK]
    print(f"\nfalse rates beyond {100 * ALPHA:.0f} % and noise: {len(high)} of {len(falses)}; coverages below "
          f"{100 * MIN_COVERAGE:.0f} % beyond noise: {len(low)} of {len(coverages)}; powers below "
          f"{100 * (POWER - SLACK):.0f} % beyond noise: {len(weak)} of {len(powers)}; "
          f"{time.perf_counter() - started:.0f} s")  # fmt: skip
    return 1 if high or low or weak else 0


if __name__ == "__main__":
    sys.exit(main())
