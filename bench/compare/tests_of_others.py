"""How often are other tools' tests wrong? `python bench/compare/tests_of_others.py [--pairs 2000] [--seed 0]`.

Two runs solve the same questions: first equally many on average, then one loses a known number of points. The same
pairs are tested three times: as lm-evaluation-harness does (`scripts/model_comparator.py`: a z of the accuracies and
their standard errors, as if the questions were others), as olmo-eval does (`analysis/pairwise.py`, June 2026: a normal
test of the share of wins among the questions that only one solved, with the standard error of the sample), and as
runner-compare does (exact McNemar; of clusters, the paired test over clusters). A test at 5 % should call at most 5 %
of equal pairs different, and find as many of the true differences as it can.

Questions of a cluster are alike, as paraphrases, rotations of choices or several answers are; the two other tests have
no clusters for this. Limits are checked for ours alone.
"""

from __future__ import annotations

import math
import sys

import numpy as np
from cluster_null import answers as of_clusters
from simulation import Drawn, Limits, Rate, Solved, Table, answers, begin

from runner_compare.statistics import ALPHA, Finding, decide_comparisons_with_holm
from runner_compare.ways.verdicts import compare_pair

SETTINGS = [  # questions, accuracy, how alike the two runs are, points that one loses
    (50, 0.9, 0.9, 0.1),
    (100, 0.5, 0.5, 0.15),
    (200, 0.9, 0.9, 0.05),
    (200, 0.7, 0.97, 0.05),
    (1319, 0.9, 0.9, 0.02),
    (1319, 0.5, 0.97, 0.02),
]
# clusters, questions in each, …
OF_CLUSTERS = [(20, 10, 0.7, 0.15), (100, 4, 0.7, 0.1), (200, 4, 0.9, 0.05)]


def unpaired_z(base: Solved, run: Solved) -> float:
    """Return the p of lm-evaluation-harness."""
    errors = [math.sqrt(it.var(ddof=1) / len(it)) for it in (base, run)]
    error = math.hypot(*errors)
    if not error:
        return 1.0
    return math.erfc(abs(base.mean() - run.mean()) / error / math.sqrt(2))


def contested_wald(base: Solved, run: Solved) -> float:
    """Return the p of olmo-eval; without spread it is 1 for equal shares and else 0."""
    wins, losses = int((run & ~base).sum()), int((base & ~run).sum())
    n = wins + losses
    share = wins / n if n else 0.5
    error = math.sqrt(share * (1 - share) / (n - 1)) if n > 1 else 0.0
    if error <= 0:
        return 1.0 if share == 0.5 else 0.0
    return math.erfc(abs(share - 0.5) / error / math.sqrt(2))


def ours(reader: Drawn, base: Solved, run: Solved, clusters: list[str] | None) -> bool:
    """Whether runner-compare calls them different."""
    first, second = (reader.add(name, it, clusters) for name, it in (("base", base), ("run", run)))
    (decision,) = decide_comparisons_with_holm([compare_pair(second, first, reader)])
    return decision.finding is not Finding.open


def rates(pairs: list[tuple[Solved, Solved]], clusters: list[str] | None) -> tuple[Rate, Rate, Rate]:
    """Return how often each test calls the runs of a pair different."""
    reader, count = Drawn(len(pairs[0][0])), len(pairs)
    found = [
        (unpaired_z(*it) < ALPHA, contested_wald(*it) < ALPHA, ours(reader, *it, clusters)) for it in pairs
    ]
    z, wald, exact = (sum(of) for of in zip(*found, strict=True))
    return Rate(z, count), Rate(wald, count), Rate(exact, count)


def simulate(generator: np.random.Generator, pairs: int, limits: Limits) -> list[tuple[Rate, Rate]]:
    """Print the rates; return those of the two other tests for equal pairs."""
    others = []
    heads = "lm-eval: z %", "olmo-eval: normal %", "runner: exact %"
    table = Table(f"two runs: {pairs:,} pairs a line", "n", "accuracy", "alike", "loses", *heads)
    for n, accuracy, alike, points in SETTINGS:
        for lost in (0.0, points):
            drawn = [tuple(answers(generator, n, [accuracy, accuracy - lost], alike)) for _ in range(pairs)]
            found = rates(drawn, None)
            table.row(n, accuracy, alike, f"{100 * lost:g} points", *found)
            if not lost:
                limits.false.append(found[-1])
                others.append(found[:2])
    table = Table("questions in clusters", "clusters", "of", "accuracy", "loses", *heads)
    for count, size, accuracy, points in OF_CLUSTERS:
        for lost in (0.0, points):
            drawn = []
            for _ in range(pairs):
                (base, run), families = of_clusters(
                    generator, count, size, False, [accuracy, accuracy - lost]
                )
                drawn.append((base, run))
            found = rates(drawn, [f"cluster {it}" for it in families])
            table.row(count, size, accuracy, f"{100 * lost:g} points", *found)
            if not lost:
                limits.false.append(found[-1])
                others.append(found[:2])
    return others


def main() -> int:
    """Simulate and print; 1 if ours exceeds its limit."""
    (pairs, generator, started), limits = begin("tests_of_others", __doc__), Limits()
    others = simulate(generator, pairs, limits)
    worst = [max(one.times / one.of for one in of) for of in zip(*others, strict=True)]
    print(f"\nequal pairs called different, at most: lm-eval {worst[0]:.1%}, olmo-eval {worst[1]:.1%}")
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
