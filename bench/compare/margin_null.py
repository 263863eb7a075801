"""How often is *as good within the margin* wrong, and do plans hold? `python bench/compare/margin_null.py`.

Pairs of runs are drawn whose true difference is exactly minus the margin, the worst that may not be called as good:
runner-compare's own verdict calls how many of them so? Then equal runs are drawn with as many questions as
`questions_needed` says for 80 %. Last, the real answers of two runs of the embedded model (hard5; plain weights and
fp4) take the place of drawn ones: their questions are drawn again with repetition, and questions that both solved are
taken from the second run until it is worse by the margin.
"""

from __future__ import annotations

import sys
from functools import cache

import numpy as np
from simulation import GOOD, Limits, Rate, Solved, Table, begin

from runner_compare.statistics import POWER, McNemarTest, decide_comparisons_with_holm
from runner_compare.statistics.margins import compute_non_inferiority_sample_size
from tools.commands import samples_of

QUESTIONS = [50, 100, 200, 500, 1319]
DISCORDANT = [0.02, 0.05, 0.1, 0.2, 0.4]
MARGINS = [0.02, 0.05]
REAL_QUESTIONS = 600


@cache
def is_as_good(wins: int, losses: int, n: int, margin: float) -> bool:
    """Return the verdict on one table of pairs; the same tables are drawn again and again."""
    (decision,) = decide_comparisons_with_holm([McNemarTest(wins, losses, n)], {"accuracy": margin})
    return decision.verdict in GOOD


def rate_of(tables: np.ndarray[tuple[int, ...], np.dtype[np.int64]], n: int, margin: float) -> Rate:
    """Return how often tables of wins and losses are called as good."""
    return Rate(
        sum(is_as_good(wins, losses, n, margin) for wins, losses in tables[:, :2].tolist()), len(tables)
    )


def drawn(generator: np.random.Generator, pairs: int, limits: Limits) -> None:
    """Print the rates of drawn tables: at the margin, and for the planned number of questions."""
    heads = "n", "margin", "disagree", "called as good %"
    table = Table(f"true difference = -margin: {pairs:,} pairs a line", *heads)
    for n in QUESTIONS:
        for margin in MARGINS:
            for rate in DISCORDANT:
                if rate < margin:
                    continue
                chances = [(rate - margin) / 2, (rate + margin) / 2, 1 - rate]
                limits.false.append(rate_of(generator.multinomial(n, chances, size=pairs), n, margin))
                table.row(n, f"{margin:.0%}", f"{rate:.0%}", limits.false[-1])
    table = Table(f"equal runs, planned for {POWER:.0%}: {pairs:,} pairs a line", *heads)
    for margin in MARGINS:
        for rate in DISCORDANT:
            needed = compute_non_inferiority_sample_size(margin, rate)
            assert needed is not None
            tables = generator.multinomial(needed, [rate / 2, rate / 2, 1 - rate], size=pairs)
            limits.planned.append(rate_of(tables, needed, margin))
            table.row(needed, f"{margin:.0%}", f"{rate:.0%}", limits.planned[-1])


def resampled(generator: np.random.Generator, pairs: int, limits: Limits) -> None:
    """Print the rates where questions of two real runs are drawn again."""
    both = samples_of(f"quantization=none,fp4 task.split=hard5 task.limit={REAL_QUESTIONS}")
    base, run = (np.array([one["verdict"] == "correct" for one in job], bool) for job in both)
    rate = float((base != run).mean())
    scores = " and ".join(f"{name} {solved.mean():.1%}" for name, solved in (("none", base), ("fp4", run)))
    table = Table(
        f"two real runs, {len(base)} questions of hard5: {scores}, they disagree on {rate:.1%}",
        *("n", "margin", "true difference", "called as good %"),
    )
    for margin in MARGINS:
        for lost, rates in ((margin, limits.false), (0.0, limits.planned)):
            n = len(base) if lost else compute_non_inferiority_sample_size(margin, rate)
            assert n is not None
            tables = np.array([table_of(generator, base, run, n, lost) for _ in range(pairs)])
            rates.append(rate_of(tables, n, margin))
            table.row(n, f"{margin:.0%}", f"{-lost:.0%}", rates[-1])


def table_of(
    generator: np.random.Generator, base: Solved, run: Solved, n: int, lost: float
) -> tuple[int, int]:
    """Draw n of the real questions with repetition; return the second side's wins and losses.

    For each question a coin says which run's answer belongs to which side: both sides are equally
    good. Then the second side loses questions that both have solved, until its true accuracy is
    lower by `lost`.
    """
    questions = generator.integers(len(base), size=n)
    swapped = generator.random(n) < 0.5
    first = np.where(swapped, run[questions], base[questions])
    second = np.where(swapped, base[questions], run[questions])
    both = first & second
    second = second & ~(both & (generator.random(n) < lost / float((base & run).mean())))
    return int((second & ~first).sum()), int((first & ~second).sum())


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    (pairs, generator, started), limits = begin("margin_null", __doc__, pairs=10_000), Limits()
    drawn(generator, pairs, limits)
    resampled(generator, pairs, limits)
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
