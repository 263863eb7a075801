"""How often is a comparison of calls of functions wrong? `python bench/compare/tools_null.py [--tables 300]`.

A baseline and three settings answer the questions of task=tools: four categories, in contexts of two lengths, which
are the same questions. First all settings are equal: in how many tables is any setting called better or worse in any
category and at any length, or over all questions? The controls: the same comparisons without a shared error, and each
answer as a question of its own over all. Then one setting fills in wrong arguments more often where contexts are long:
how often is that found there, and is anything said of a category that lost nothing?
"""

from __future__ import annotations

import math
import sys

import numpy as np
from simulation import NORMAL, Drawn, Limits, Rate, Solved, Table, begin

from runner_base.tool_outcomes import ToolOutcome
from runner_compare.data import Run
from runner_compare.data import Table as ComparedTable
from runner_compare.outcomes import Answers, QuestionOutcome, ToolPlace
from runner_compare.sections.tool_calls import CallsOfTable
from runner_compare.statistics import ALPHA, Finding
from runner_compare.table import ComparisonOptions, tabulate

NAMES = ("none", "int8", "nf4", "kv8")
CATEGORIES = {"simple": 0.9, "multiple": 0.8, "parallel": 0.6, "irrelevance": 0.95}  # share right
LENGTHS, SHORTER = (2048, 8192), 0.05  # so much less is right where the context is long
A_CATEGORY = (20, 80)  # questions
ALIKE = (0.5, 0.9)  # how much of a question's difficulty is the same for all settings
LOST = ("parallel", 8192)  # where one setting is worse
LOSSES = (0.1, 0.2, 0.3)


def solved_by(
    generator: np.random.Generator, n: int, share: float, alike: float, loss: float
) -> list[Solved]:
    """Draw which of n questions each setting solves at each length; the last one is worse at the
    longest length by this loss."""
    hard = generator.standard_normal(n)
    found: list[Solved] = []
    for name in NAMES:
        for length in LENGTHS:
            less = SHORTER * (length == LENGTHS[-1])
            less += loss * (name == NAMES[-1] and length == LENGTHS[-1])
            own = generator.standard_normal(n)
            met: Solved = math.sqrt(alike) * hard + math.sqrt(1 - alike) * own < NORMAL.inv_cdf(
                share - less
            )
            found.append(met)
    return found


def compared(
    generator: np.random.Generator, n: int, alike: float, loss: float, has_clusters: bool = True
) -> ComparedTable:
    """Draw the answers of all settings, and compare them with the first as runner-compare does."""
    answers: dict[str, Answers] = {name: {} for name in NAMES}
    for category, share in CATEGORIES.items():
        solved = solved_by(generator, n, share, alike, loss * (category == LOST[0]))
        for at, of_cell in enumerate(solved):
            name, length = NAMES[at // len(LENGTHS)], LENGTHS[at % len(LENGTHS)]
            for number, is_right in enumerate(of_cell.tolist()):
                outcome = ToolOutcome.right if is_right else ToolOutcome.wrong_arguments
                own = f"{category} {number}"
                key = len(answers[name]), own, ""
                answers[name][key] = QuestionOutcome(
                    is_right,
                    f"prompt of {length}",
                    own if has_clusters else None,
                    tools=ToolPlace(category, length, outcome),
                )
    reader, runs = Drawn(), []
    reader.answers = answers
    for name, of_run in answers.items():
        right = float(sum(outcome.solved for outcome in of_run.values()))
        metrics = {"n": float(len(of_run)), "correct": right, "tool_accuracy": right / len(of_run)}
        runs.append(Run(name, name, "tools", "1", "", {"quantization.name": name}, metrics))
    return tabulate(runs, ComparisonOptions({"quantization.name": NAMES[0]}), reader)


def nulls(generator: np.random.Generator, tables: int, limits: Limits) -> None:
    """Print how often anything is said of equal settings."""
    heads = (
        *("questions", "alike", "in a category %", "over all %"),
        *("without a shared error", "each answer by itself"),
    )
    table = Table(f"four equal settings: {tables:,} tables a line", *heads)
    for n in A_CATEGORY:
        for alike in ALIKE:
            in_cells = over_all = alone = as_answers = 0
            for _ in range(tables):
                drawn = compared(generator, n, alike, 0.0)
                decisions = [
                    decision
                    for cells in drawn.of(CallsOfTable).compared.values()
                    for decision in cells.values()
                ]
                in_cells += any(found.finding is not Finding.open for found in decisions)
                alone += any(found.p < ALPHA for found in decisions)
                over_all += is_anything_said(drawn)
                as_answers += is_anything_said(compared(generator, n, alike, 0.0, False))
            limits.false += [Rate(in_cells, tables), Rate(over_all, tables)]
            controls = Rate(alone, tables).plain, Rate(as_answers, tables).plain
            table.row(4 * n, alike, *limits.false[-2:], *controls)


def is_anything_said(table: ComparedTable) -> bool:
    """Whether a row is called better or worse over all questions."""
    return any(row.effect and row.effect.finding is not Finding.open for row in table.rows)


def losses(generator: np.random.Generator, tables: int, limits: Limits) -> None:
    """Print how often a loss in one category at one length is found there, and elsewhere."""
    heads = "questions", "points lost", "found there %", "found over all %", "elsewhere %"
    table = Table(
        f"one setting is worse in {LOST[0]} at {LOST[1]:,}: {tables:,} tables a line", *heads
    )
    for n in A_CATEGORY:
        for loss in LOSSES:
            there = over_all = elsewhere = 0
            for _ in range(tables):
                drawn = compared(generator, n, ALIKE[-1], loss)
                findings = {
                    (row, cell): decision.finding
                    for row, cells in drawn.of(CallsOfTable).compared.items()
                    for cell, decision in cells.items()
                }
                there += findings.pop((NAMES[-1], LOST)) is Finding.worse
                elsewhere += any(found is not Finding.open for found in findings.values())
                last = drawn.row(NAMES[-1]).effect
                over_all += last is not None and last.finding is Finding.worse
            limits.false.append(Rate(elsewhere, tables))
            found = Rate(there, tables), Rate(over_all, tables)
            table.row(4 * n, f"{100 * loss:.0f}", *found, limits.false[-1])


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    (tables, generator, started), limits = (
        begin("compare/tools_null", __doc__, 300, "tables"),
        Limits(),
    )
    nulls(generator, tables, limits)
    losses(generator, tables, limits)
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
