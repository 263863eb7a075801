"""How often is `as good within the margin` wrong, and does a planned number of questions reach its power?

`python bench/margin_null.py [--pairs 10000] [--seed 0]`. Pairs of runs are drawn whose true difference is exactly minus
the margin, the worst that may not be called as good: runner-compare's own verdict calls how many of them so? Then equal
runs are drawn with as many questions as `questions_needed` says for 80 %. Last, the real answers of two runs of the
embedded model (hard5; plain weights and fp4) take the place of drawn ones: their questions are drawn again with
repetition, and questions that both solved are taken from the second run until it is worse by the margin. Rates have
their 95 % intervals (Wilson). The exit code is 1 where a false rate is above 5 % or a power misses 80 % by more than 3
points, beyond noise.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from compare_null import SLACK, Rate

from runner.core.effects import judge, paired_accuracies
from runner.core.margins import MarginVerdict, questions_needed
from runner.core.stats import ALPHA, POWER

QUESTIONS = [50, 100, 200, 500, 1319]
DISCORDANT = [0.02, 0.05, 0.1, 0.2, 0.4]
MARGINS = [0.02, 0.05]
REAL_QUESTIONS = 600

Solved = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


def is_as_good(wins: int, losses: int, n: int, margin: float, known: dict[tuple[int, int, int, float], bool]) -> bool:
    """Return the verdict on one table of pairs; the same tables are drawn again and again."""
    key = wins, losses, n, margin
    if key not in known:
        effect = paired_accuracies(wins, losses, n)
        effect.needs = None  # not of interest here, and it takes long
        judge([effect], {effect.measure: margin})
        known[key] = effect.verdict in {MarginVerdict.as_good, MarginVerdict.worse_but_within, MarginVerdict.better}
    return known[key]


def rate_of(tables: np.ndarray[tuple[int, ...], np.dtype[np.int64]], n: int, margin: float) -> Rate:
    """Return how often tables of wins and losses are called as good."""
    known: dict[tuple[int, int, int, float], bool] = {}
    return Rate(sum(is_as_good(wins, losses, n, margin, known) for wins, losses in tables[:, :2].tolist()), len(tables))


def drawn(generator: np.random.Generator, pairs: int) -> tuple[list[Rate], list[Rate]]:
    """Print and return the rates of drawn tables: at the margin, and for the planned number of questions."""
    nulls, powers = [], []
    print(f"\ntrue difference = -margin: {pairs:,} pairs a line")
    print("    n  margin  disagree       called as good")
    for n in QUESTIONS:
        for margin in MARGINS:
            for rate in DISCORDANT:
                if rate < margin:
                    continue
                chances = [(rate - margin) / 2, (rate + margin) / 2, 1 - rate]
                null = rate_of(generator.multinomial(n, chances, size=pairs), n, margin)
                print(f"{n:5d}  {100 * margin:6.1f}  {100 * rate:6.1f} %  {null}", flush=True)
                nulls.append(null)
    print(f"\nequal runs, planned for {100 * POWER:.0f} %: {pairs:,} pairs a line")
    print("margin  disagree  questions       called as good")
    for margin in MARGINS:
        for rate in DISCORDANT:
            needed = questions_needed(margin, rate)
            assert needed is not None
            n = needed
            power = rate_of(generator.multinomial(n, [rate / 2, rate / 2, 1 - rate], size=pairs), n, margin)
            print(f"{100 * margin:6.1f}  {100 * rate:6.1f} %  {n:9,d}  {power}", flush=True)
            powers.append(power)
    return nulls, powers


def real_answers() -> tuple[Solved, Solved]:
    """Evaluate two quantizations of the embedded model, and return which questions each one solved."""
    with tempfile.TemporaryDirectory() as folder:
        command = f"-m quantization=none,fp4 task.split=hard5 task.limit={REAL_QUESTIONS} tracking=none print=json"
        done = subprocess.run(
            [sys.executable, "-m", "runner", *command.split()], cwd=folder, capture_output=True, text=True, check=True
        )
        both = []
        for line in done.stdout.splitlines():
            samples = Path(json.loads(line)["output_dir"]) / "samples.jsonl"
            marks = [json.loads(sample) for sample in samples.read_text().splitlines()]
            both.append(
                np.array([mark["verdict"] == "correct" for mark in sorted(marks, key=lambda mark: mark["index"])], bool)
            )
        return both[0], both[1]


def resampled(generator: np.random.Generator, pairs: int) -> tuple[list[Rate], list[Rate]]:
    """Print and return the rates where questions of two real runs are drawn again."""
    base, run = real_answers()
    rate = float((base != run).mean())
    scores = " and ".join(f"{name} {100 * solved.mean():.1f} %" for name, solved in (("none", base), ("fp4", run)))
    print(f"\ntwo real runs, {len(base)} questions of hard5: {scores}, they disagree on {100 * rate:.1f} %")
    print("    n  margin  true difference       called as good")
    nulls: list[Rate] = []
    powers: list[Rate] = []
    for margin in MARGINS:
        for lost, rates in ((margin, nulls), (0.0, powers)):
            n = len(base) if lost else questions_needed(margin, rate)
            assert n is not None
            tables = np.array([table_of(generator, base, run, n, lost) for _ in range(pairs)])
            rates.append(rate_of(tables, n, margin))
            print(f"{n:5d}  {100 * margin:6.1f}  {-100 * lost:15.1f}  {rates[-1]}", flush=True)
    return nulls, powers


def table_of(generator: np.random.Generator, base: Solved, run: Solved, n: int, lost: float) -> tuple[int, int]:
    """Draw n of the real questions with repetition; return the second side's wins and losses.

    For each question a coin says which run's answer belongs to which side: both sides are equally good. Then the second
    side loses questions that both have solved, until its true accuracy is lower by `lost`.
    """
    questions = generator.integers(len(base), size=n)
    swapped = generator.random(n) < 0.5
    first = np.where(swapped, run[questions], base[questions])
    second = np.where(swapped, base[questions], run[questions])
    both = first & second
    second = second & ~(both & (generator.random(n) < lost / float((base & run).mean())))
    return int((second & ~first).sum()), int((first & ~second).sum())


def main() -> int:
    """Simulate and print; 1 when a promise is broken by more than noise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"python bench/margin_null.py --pairs {options.pairs} --seed {options.seed}")
    generator, started = np.random.default_rng(options.seed), time.perf_counter()
    nulls, powers = drawn(generator, options.pairs)
    real_nulls, real_powers = resampled(generator, options.pairs)
    high = [rate for rate in (*nulls, *real_nulls) if rate.low > ALPHA]
    missed = [rate for rate in (*powers, *real_powers) if rate.high < POWER - SLACK or rate.low > POWER + SLACK]
    print(
        f"\nfalse positives beyond {100 * ALPHA:.0f} % and noise: {len(high)} of {len(nulls) + len(real_nulls)} rates"
    )
    print(f"power off {100 * POWER:.0f} % by more than {100 * SLACK:.0f} points and noise: {len(missed)} of "
          f"{len(powers) + len(real_powers)} rates; {time.perf_counter() - started:.0f} s")  # fmt: skip
    return 1 if high or missed else 0


if __name__ == "__main__":
    sys.exit(main())
