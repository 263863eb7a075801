"""Does accuracy at equal tokens find what is not there? `python bench/compare/equal_tokens_null.py`.

Each setting thinks as long as a question needs it, up to its budget; then the answer is as good as the thought was. The
truth of a case comes from many questions. First both settings are the same: how often are they called different? Then
one thinks longer for the same (so it is worse at equal tokens, and at equal budgets the same), or is less often right:
how often does the 95 % interval miss the true difference, over the shared tokens and at the tokens of each budget? It
also says how often a difference is found.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
from simulation import Limits, Rate, Table, begin

from runner_compare.statistics import Finding
from runner_compare.statistics.equal_tokens import (
    BudgetCurve,
    EqualTokensComparison,
    compare_accuracies_at_equal_tokens,
    decide_equal_tokens,
)

BUDGETS = (0, 16, 32, 64, 128, None)
QUESTIONS = (50, 200, 1000)
MANY = 200_000  # questions that show the truth


@dataclass(frozen=True)
class Thinker:
    """What is true of a setting."""

    least: float = 0.2  # how often an answer without thinking is right
    most: float = 0.9  # and how often after a whole thought
    longer: float = 1.0  # how many times as many tokens a thought takes
    answer: float = 12.0  # tokens of an answer


CASES = {
    "the same": (Thinker(), Thinker()),
    "the same, nearly all right": (Thinker(0.93, 0.99), Thinker(0.93, 0.99)),
    "20 % longer": (Thinker(longer=1.2), Thinker()),
    "50 % longer": (Thinker(longer=1.5), Thinker()),
    "8 points less": (Thinker(0.12, 0.82), Thinker()),
    "thinking is of no use": (Thinker(0.2, 0.2), Thinker(0.25, 0.25)),
}


def drawn(
    generator: np.random.Generator, n: int, sides: tuple[Thinker, Thinker]
) -> tuple[BudgetCurve, BudgetCurve]:
    """Ask both settings the same questions at each budget."""
    hard = generator.standard_normal(n)  # questions that take long are rarer right
    lucky = generator.random(n)
    curves = []
    for it in sides:
        need = np.exp(3.6 + 0.4 * hard + 0.15 * generator.standard_normal(n)) * it.longer
        # the settings agree on most questions
        own = np.where(generator.random(n) < 0.8, lucky, generator.random(n))
        right, tokens = [], []
        for budget in BUDGETS:
            thought = need if budget is None else np.minimum(need, budget)
            chance = it.least + (it.most - it.least) * (thought / need) ** 2
            right.append((own < chance).astype(float).tolist())
            tokens.append((thought.round() + it.answer).tolist())
        curves.append(BudgetCurve(right, tokens))
    return curves[0], curves[1]


def compared(curves: tuple[BudgetCurve, BudgetCurve]) -> EqualTokensComparison | None:
    """Return the verdict on two settings, as a table of these two has it."""
    it = compare_accuracies_at_equal_tokens(*curves)
    if it is not None:
        decide_equal_tokens([it])
    return it


def truth_of(sides: tuple[Thinker, Thinker]) -> tuple[float, dict[int, float]]:
    """Return the true differences: over the shared tokens, and at the tokens of each budget."""
    it = compare_accuracies_at_equal_tokens(*drawn(np.random.default_rng(1), MANY, sides), resamples=20)
    assert it is not None
    return it.difference.value, {point.budget: point.difference.value for point in it.points}


def rates(generator: np.random.Generator, case: str, n: int, draws: int) -> tuple[Rate, Rate, Rate]:
    """Return how often a difference is found, and how often the intervals miss it, over the range
    and at budgets."""
    sides = CASES[case]
    over, at_budget = truth_of(sides)
    found, missed, missed_at, points = 0, 0, 0, 0
    for _ in range(draws):
        it = compared(drawn(generator, n, sides))
        if it is None:
            continue
        found += it.finding is not Finding.open
        missed += not it.difference.low <= over <= it.difference.high
        for point in it.points:
            if point.budget in at_budget:
                points += 1
                missed_at += not point.difference.low <= at_budget[point.budget] <= point.difference.high
    return Rate(found, draws), Rate(missed, draws), Rate(missed_at, max(1, points))


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    (draws, generator, started), limits = (begin("equal_tokens_null", __doc__, 400, "draws"), Limits())
    heads = (
        "n",
        f"{'the settings':28}",
        "found different %",
        "misses over the range %",
        "misses at budgets %",
    )
    table = Table(f"{draws:,} pairs a line", *heads)
    for n in QUESTIONS:
        for case, sides in CASES.items():
            found, missed, missed_at = rates(generator, case, n, draws)
            table.row(n, case, found, missed, missed_at)
            limits.missed += [missed, missed_at]
            if sides[0] == sides[1]:
                limits.false.append(found)
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
