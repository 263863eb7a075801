"""Does a margin pass two broken runs? `python bench/compare/floor_null.py [--pairs 1000]`.

Both runs of a pair are broken: each solves a question by luck alone, independently of the other. *As good* would be no
evidence. Then healthy pairs are drawn: the second run has 5 % of its answers by luck. They show what the rule costs.
Each rate stands beside that without the rule, and beside that of a rule that only rejects runs that solve nothing.
"""

from __future__ import annotations

import sys
from functools import cache

import numpy as np
from simulation import GOOD, Limits, Rate, Table, begin

from runner_compare.model.data import Run
from runner_compare.model.table import add_accuracies_to_comparison
from runner_compare.statistics import McNemarTest, RunComparison, decide_comparisons_with_holm

QUESTIONS = [100, 300, 1000, 3000]
MARGINS = [0.02, 0.05]
LUCK = [0.0, 0.002, 0.005, 0.01, 0.02, 0.05]  # of broken runs
HEALTHY = [0.05, 0.1, 0.25, 0.5, 1.0]
CHANGED = 0.05  # of a healthy candidate's answers

Counts = tuple[int, int, int, int]  # wins, losses, right answers of the baseline, all questions


@cache
def passes(counts: Counts, margin: float) -> tuple[bool, bool, bool]:
    """Return whether a pair passes without a rule, unless both solve nothing, and as it is."""
    wins, losses, base, n = counts
    compared = RunComparison(McNemarTest(wins, losses, n, base))
    sides = (
        Run("", "", "", "", "", {}, {"n": float(n), "correct": float(right)})
        for right in (base + wins - losses, base)
    )
    decisions = [
        decide_comparisons_with_holm([one], {"accuracy": margin})[0]
        for one in (compared, add_accuracies_to_comparison(compared, *sides))
    ]
    before, now = (decision.verdict in GOOD for decision in decisions)
    return before, before and base + wins > 0, now


def rates(
    generator: np.random.Generator, accuracy: float, kept: float, n: int, margin: float, pairs: int
) -> list[Rate]:
    """Return how often pairs pass by each rule; a candidate keeps this share of the baseline's
    verdicts, and has the others by luck."""
    base = generator.random((pairs, n)) < accuracy
    lucky = generator.random((pairs, n)) < accuracy
    other = np.where(generator.random((pairs, n)) < kept, base, lucky)
    columns = (other & ~base).sum(1), (base & ~other).sum(1), base.sum(1)
    found = [passes((*map(int, counts), n), margin) for counts in zip(*columns, strict=True)]
    return [Rate(sum(rule), pairs) for rule in zip(*found, strict=True)]


def main() -> int:
    """Print the rates; return 1 if broken pairs pass too often."""
    (pairs, generator, started), limits = begin("floor_null", __doc__), Limits()
    heads = ("accuracy", "n", "margin", "no rule %", "unless 0 of both %", "now %")
    for title, accuracies, kept in (("broken", LUCK, 0.0), ("healthy", HEALTHY, 1 - CHANGED)):
        table = Table(f"{title} pairs that pass: {pairs:,} a line", *heads)
        for accuracy in accuracies:
            for n in QUESTIONS:
                for margin in MARGINS:
                    found = rates(generator, accuracy, kept, n, margin, pairs)
                    table.row(f"{accuracy:.1%}", n, f"{margin:.0%}", *found)
                    if title == "broken" and accuracy <= margin:
                        limits.false.append(found[-1])
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
