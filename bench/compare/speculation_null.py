"""Is what is said of answers that speculation changed true? `python bench/compare/speculation_null.py [--pairs 1000]`.

Two jobs answer the same questions, with guessed tokens and without. In half precision some answers differ, because a
pass over several tokens rounds otherwise: such an answer is as likely right as the other one. First that is all: how
often does the comparison call one of the two better? Also where a change is more likely the harder a question is, and
where changed answers come in families of questions. Then the engine is wrong: it takes over some guesses without
looking at them, and answers that differ are seldom right. How often is that found, and how often is it called as
good within two points (`--margin 2`), which is false where it has lost more?

Before that, *none of 13 answers has another text; up to 24.7 % may differ*: how often is the true share of changed
answers above the upper end? The true share is just above the end after no change, where that is hardest, or a fixed
one. Answers change by themselves or in whole families. The controls: an end without a correction for few answers (the
share + 1.96 of its standard errors), Wilson's end, and each answer of a family counted by itself.
"""

from __future__ import annotations

import math
import sys

import numpy as np
from simulation import GOOD, Drawn, Limits, Rate, Solved, Table, begin

from runner_compare.features.changed_answers.compute import ChangedAnswers, count_changed_answers
from runner_compare.model.data import TEXT_END, Question, Run
from runner_compare.statistics import (
    Decision,
    Finding,
    compute_clopper_pearson_interval,
    compute_wilson_interval,
    decide_comparisons_with_holm,
)
from runner_compare.ways.verdicts import compare_pair

SIZES = (200, 1319)
CHANGED = (0.01, 0.05, 0.2, 0.5)  # shares of the answers that differ
FAMILY = 10  # questions
WRONG = 0.3  # how likely an answer of the wrong engine that differs is right, of how likely it was
MARGIN = 0.02
FEW = (13, 50, 200)  # answers, of which few or none change
ALMOST = 1e-6  # so much above an end is the hardest truth


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
    (decision,) = decide_comparisons_with_holm([compare_pair(run, base, reader)], {"accuracy": MARGIN})
    return decision, (1 - kept) * float((differs * chances).mean())


class ChangedTexts(Drawn):
    """Answers of two jobs, of which the second has other texts to some questions."""

    def __init__(self, differs: Solved) -> None:
        super().__init__(len(differs))
        self.differs = differs

    def load_answer_texts(
        self, run: Run, questions: set[Question], max_chars: int = TEXT_END
    ) -> dict[Question, dict[str, str]]:
        return {
            question: {"text": str(run.run_id == "draft" and self.differs[question[0]])}
            for question in questions
        }


def count_texts(n: int, units_changed: int, unit: int) -> ChangedAnswers:
    """Return what the product says if so many answers, or families of so many, have another text."""
    reader = ChangedTexts(np.arange(n) < units_changed * unit)
    families = [f"family {number // unit}" for number in range(n)] if unit > 1 else None
    runs = [reader.add(name, np.ones(n, dtype=bool), families) for name in ("draft", "off")]
    return count_changed_answers(runs[0], runs[1], reader)


def rates_of_ends(
    generator: np.random.Generator, n: int, unit: int, truth: float, pairs: int
) -> tuple[Rate, Rate, list[Rate]]:
    """Return how often the upper end is below the truth, how often the interval misses it, and how
    often the upper ends of the controls are below."""
    counts, times = np.unique(generator.binomial(n // unit, truth, pairs), return_counts=True)
    below = missed = 0
    controls = [0, 0, 0]
    for count, often in zip(counts.tolist(), times.tolist(), strict=True):
        low, high = count_texts(n, count, unit).interval
        below += often * (high < truth)
        missed += often * (not low <= truth <= high)
        changed = count * unit
        share = changed / n
        ends = (
            share + 1.96 * math.sqrt(share * (1 - share) / n),
            compute_wilson_interval(changed, n)[1],
            compute_clopper_pearson_interval(changed, n)[1],
        )
        controls = [total + often * (end < truth) for total, end in zip(controls, ends, strict=True)]
    return Rate(below, pairs), Rate(missed, pairs), [Rate(times, pairs) for times in controls]


def changed_bounds(generator: np.random.Generator, pairs: int, limits: Limits) -> None:
    """Print how often the upper end of the share of changed answers is below the truth."""
    heads = ("answers", "in families of", "true share", "end below the truth %", "misses %")
    table = Table(
        f"changed answers: {pairs:,} pairs a line",
        *heads, "uncorrected", "Wilson's", "answers by themselves",
    )  # fmt: skip
    for n in FEW:
        for unit in (1, FAMILY) if n % FAMILY == 0 else (1,):
            hardest = count_texts(n, 0, unit).interval[1] + ALMOST
            for truth in (hardest, 0.01, 0.05, 0.2):
                below, missed, controls = rates_of_ends(generator, n, unit, truth, pairs)
                cells = (rate.plain for rate in controls)
                table.row(n, unit, f"{100 * truth:.1f} %", below, missed, *cells)
                limits.ends.append(below)
                limits.missed.append(missed)


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    (pairs, generator, started), limits = begin("speculation_null", __doc__, 1000), Limits()
    changed_bounds(generator, max(pairs, 2000), limits)
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
