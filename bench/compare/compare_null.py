"""How often is the printed verdict wrong, and does it have the stated power? `python bench/compare/compare_null.py`.

Two runs answer the same n questions (see simulation.answers). Equal accuracies are the null: every verdict on it but
"no difference shown" is false. Then they are as far apart as the smallest difference that n questions and this much
disagreement should show. In the last column the second run loses questions that both solve, on top of that
disagreement, whatever their difficulty. The verdicts are runner-compare's own, from answers to finding.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Sequence

import numpy as np
from simulation import Drawn, Limits, Rate, Solved, Table, answers, begin, disagreement, drawn_run

from runner_compare.model.data import TableRow
from runner_compare.statistics import ALPHA, Finding, decide_comparisons_with_holm
from runner_compare.statistics.planning import find_smallest_detectable_difference
from runner_compare.statistics.stats import find_detectable_unpaired_difference
from runner_compare.ways.verdicts import compare_pair, compare_unpaired_accuracies

FAMILY = 5  # comparisons of one table with one baseline
SETTINGS = [  # questions, accuracy, rho: as a quantization changes a model, as another prompt does, as strangers agree
    (50, 0.7, 0.8),
    (200, 0.9, 0.95),
    (200, 0.5, 0.5),
    (200, 0.7, 0.0),
    (1319, 0.9, 0.95),
    (1319, 0.6, 0.8),
]
GROUPS = [(50, 0.7), (200, 0.9), (1319, 0.6)]  # questions a side, accuracy


def lost_on_top(generator: np.random.Generator, solved: Solved, gap: float) -> Solved:
    """Let the second run lose questions that both solve, so many that its accuracy falls by the
    gap."""
    both = solved.all(axis=0)
    solved[1] &= ~(both & (generator.random(solved.shape[1]) < gap / both.mean()))
    return solved


def verdicts(solved: Solved, reader: Drawn) -> list[TableRow]:
    """Compare each run but the first with the first, as one table does."""
    runs = [reader.add(f"run-{number}", line) for number, line in enumerate(solved)]
    decisions = decide_comparisons_with_holm([compare_pair(run, runs[0], reader) for run in runs[1:]])
    return [TableRow(run, {}, effects=[it]) for run, it in zip(runs[1:], decisions, strict=True)]


def unpaired_verdict(first: Solved, second: Solved) -> TableRow:
    """Compare two runs on other questions."""
    base, run = drawn_run("base", first), drawn_run("run", second)
    return TableRow(
        run, {}, effects=decide_comparisons_with_holm([compare_unpaired_accuracies(run, base, "drawn")])
    )


def found(rows: Sequence[TableRow]) -> bool:
    """Whether a table claims any difference."""
    return any(it.finding is not Finding.open for row in rows for it in row.effects)


def worse(row: TableRow) -> bool:
    """Whether a verdict is the true one where the second run is the worse one."""
    return row.effect is not None and row.effect.finding is Finding.worse


def promised(tables: Iterator[list[TableRow]]) -> tuple[Rate, float]:
    """Return how often tables claim a difference, and the median of their minimum detectable
    differences."""
    claims, seen = [], []
    for rows in tables:
        claims.append(found(rows))
        seen += [it.detectable for row in rows for it in row.effects]
    return Rate(sum(claims), len(claims)), statistics.median(1.0 if it is None else it for it in seen)


def paired(generator: np.random.Generator, pairs: int, limits: Limits) -> None:
    """Print how often single comparisons and families find something, where there is none and where
    is."""
    heads = ("n", "accuracy", "rho", "disagree", "false verdicts %", "says ≥ points", "true points")
    table = Table(
        f"one comparison, paired: {pairs:,} pairs a line and side", *heads, "true verdicts %", "lost on top %"
    )
    for n, accuracy, rho in SETTINGS:
        reader, rate = Drawn(n), disagreement(accuracy, accuracy, rho)
        null, said = promised(
            verdicts(answers(generator, n, [accuracy] * 2, rho), reader) for _ in range(pairs)
        )
        gap = find_smallest_detectable_difference(n, rate) or accuracy
        apart = (
            verdicts(answers(generator, n, [accuracy, accuracy - gap], rho), reader)[0] for _ in range(pairs)
        )
        power = Rate(sum(map(worse, apart)), pairs)
        drawn = (
            lost_on_top(generator, answers(generator, n, [accuracy] * 2, rho), gap) for _ in range(pairs)
        )
        on_top = Rate(sum(worse(verdicts(solved, reader)[0]) for solved in drawn), pairs)
        points = f"{100 * said:.1f}", f"{100 * gap:.1f}"
        table.row(n, accuracy, rho, f"{rate:.1%}", null, *points, power, on_top)
        limits.false.append(null)
        limits.powers += [power, on_top]
    table = Table(
        f"{FAMILY} runs against one baseline, Holm: {pairs:,} tables a line and side",
        *heads,
        "true verdicts %",
    )
    for n, accuracy, rho in SETTINGS:
        reader, rate = Drawn(n), disagreement(accuracy, accuracy, rho)
        level = [accuracy] * (FAMILY + 1)
        null, said = promised(verdicts(answers(generator, n, level, rho), reader) for _ in range(pairs))
        gap = find_smallest_detectable_difference(n, rate, alpha=ALPHA / FAMILY) or accuracy
        level[1] -= gap  # one of the runs differs, the others do not
        apart = (verdicts(answers(generator, n, level, rho), reader)[0] for _ in range(pairs))
        power = Rate(sum(map(worse, apart)), pairs)
        table.row(n, accuracy, rho, f"{rate:.1%}", null, f"{100 * said:.1f}", f"{100 * gap:.1f}", power)
        limits.false.append(null)
        limits.powers.append(power)


def unpaired(generator: np.random.Generator, pairs: int, limits: Limits) -> None:
    """Print the rates of comparisons on other questions."""
    table = Table(
        f"one comparison, other questions (--unpaired): {pairs:,} pairs a line and side",
        *("n", "accuracy", "false verdicts %", "says ≥ points", "true points", "true verdicts %"),
    )
    for n, accuracy in GROUPS:

        def draw(level: float, n: int = n) -> Solved:
            solved: Solved = answers(generator, n, [level], 0.0)[0]
            return solved

        null, said = promised([unpaired_verdict(draw(accuracy), draw(accuracy))] for _ in range(pairs))
        gap = find_detectable_unpaired_difference(n, n, accuracy) or accuracy
        power = Rate(
            sum(worse(unpaired_verdict(draw(accuracy), draw(accuracy - gap))) for _ in range(pairs)), pairs
        )
        table.row(n, accuracy, null, f"{100 * said:.1f}", f"{100 * gap:.1f}", power)
        limits.false.append(null)


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    (pairs, generator, started), limits = begin("compare_null", __doc__), Limits()
    paired(generator, pairs, limits)
    unpaired(generator, pairs, limits)
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
