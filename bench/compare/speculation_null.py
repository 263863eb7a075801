"""Is what is said of answers that speculation changed true? `python bench/compare/speculation_null.py [--pairs 1000]`.

Two jobs answer the same questions, with guessed tokens and without. In half precision some answers differ, because a
pass over several tokens rounds otherwise: such an answer is as likely right as the other one. First that is all: how
often does the comparison call one of the two better? Also where a change is more likely the harder a question is, and
where changed answers come in families of questions. Then the engine is wrong: it takes over some guesses without
looking at them, and answers that differ are seldom right. How often is that found, and how often is it called as
good within two points (`--margin 2`), which is false where it has lost more?
"""

from __future__ import annotations

import sys

import numpy as np
from simulation import GOOD, Drawn, Limits, Rate, Solved, Table, begin

from runner_compare.statistics import Decision, Finding, judge
from runner_compare.ways.verdicts import compare_pair

SIZES = (200, 1319)
CHANGED = (0.01, 0.05, 0.2, 0.5)  # shares of the answers that differ
FAMILY = 10  # questions
WRONG = 0.3  # how likely an answer of the wrong engine that differs is right, of how likely it was
MARGIN = 0.02


def drawn(
    generator: np.random.Generator, n: int, changed: float, kind: str, kept: float = 1.0
) -> tuple[Decision, float]:
    """Draw both jobs' answers; return their comparison, and the true loss. kept: how likely answers
    that differ are right, of how likely they were before."""
    chances = generator.beta(1.5, 0.7, n)
    families = None
    if kind == "in families":
        families = [f"family {number // FAMILY}" for number in range(n)]
        differs = (generator.random(n // FAMILY + 1) < changed).repeat(FAMILY)[:n]
    elif kind == "hard ones":
        hard = 1 - chances
        differs = generator.random(n) < np.minimum(1.0, changed * hard / hard.mean())
    else:
        differs = generator.random(n) < changed
    off: Solved = generator.random(n) < chances
    again: Solved = generator.random(n) < kept * chances
    reader = Drawn(n)
    base = reader.add("off", off, families)
    run = reader.add("draft", np.where(differs, again, off), families)
    (decision,) = judge([compare_pair(run, base, reader)], {"accuracy": MARGIN})
    return decision, (1 - kept) * float((differs * chances).mean())


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    (pairs, generator, started), limits = begin("speculation_null", __doc__, 1000), Limits()
    heads = (
        *("questions", "answers differ", "which     ", "false verdicts %"),
        *("a wrong engine loses", "is found", "is called as good"),
    )
    table = Table(f"{pairs:,} pairs a line", *heads)
    for n in SIZES:
        for changed in CHANGED:
            for kind in ("any", "hard ones", "in families"):
                same = [drawn(generator, n, changed, kind)[0] for _ in range(pairs)]
                wrong = [drawn(generator, n, changed, kind, WRONG) for _ in range(pairs)]
                lost = sum(loss for _, loss in wrong) / pairs
                false = sum(decision.finding is not Finding.open for decision in same)
                found = sum(decision.finding is Finding.worse for decision, _ in wrong)
                as_good = Rate(sum(decision.verdict in GOOD for decision, _ in wrong), pairs)
                limits.false += [Rate(false, pairs)] + [as_good] * (lost > MARGIN)
                of_wrong = f"{100 * lost:.1f}", Rate(found, pairs).plain, as_good.plain
                table.row(n, f"{changed:.0%}", kind, limits.false[-1 - (lost > MARGIN)], *of_wrong)
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
