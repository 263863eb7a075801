"""How often is a comparison of calls of functions wrong? `python bench/compare/tools_null.py [--tables 1000]`.

A baseline and three settings answer the questions of task=tools: four categories, in contexts of two lengths, which
are the same questions. First all settings are equal: in how many tables is any setting called better or worse in any
category and at any length? The control: the same comparisons without a shared error. Then one setting fills in wrong
arguments more often in one category where contexts are long: how often is that found there, and is anything said of a
category or length that lost nothing? Over all questions the two lengths are clusters, as in cluster_null.py.
"""

from __future__ import annotations

import math
import sys

import numpy as np
from simulation import NORMAL, Drawn, Limits, Rate, Solved, Table, begin

from runner_base.tool_outcomes import ToolOutcome
from runner_compare.data import Run, TableRow
from runner_compare.data import Table as ComparedTable
from runner_compare.outcomes import Answers, QuestionOutcome, ToolPlace
from runner_compare.sections.tool_calls import CallsOfTable, add_calls
from runner_compare.statistics import ALPHA, Decision, Finding
from runner_compare.tool_findings import Cell

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
    generator: np.random.Generator, n: int, alike: float, loss: float
) -> dict[tuple[str, Cell], Decision]:
    """Draw the answers of all settings, and compare them with the first as runner-compare does in
    each category and at each length."""
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
                    own,
                    tools=ToolPlace(category, length, outcome),
                )
    reader, rows = Drawn(), list[TableRow]()
    reader.answers = answers
    for name, of_run in answers.items():
        right = float(sum(outcome.solved for outcome in of_run.values()))
        metrics = {"n": float(len(of_run)), "correct": right, "tool_accuracy": right / len(of_run)}
        run = Run(name, name, "tools", "1", "", {}, metrics)
        rows.append(TableRow(run, {}, is_baseline=not rows, baseline=rows[0] if rows else None))
    table = ComparedTable("tools", [], rows)
    add_calls(table, reader)
    return {
        (name, cell): decision
        for name, cells in table.of(CallsOfTable).compared.items()
        for cell, decision in cells.items()
    }


def is_said(decision: Decision) -> bool:
    """Whether a setting is called better or worse."""
    return decision.finding is not Finding.open


def nulls(generator: np.random.Generator, tables: int, limits: Limits) -> None:
    """Print how often anything is said of equal settings."""
    heads = "questions", "alike", "anything is said %", "without a shared error"
    table = Table(f"four equal settings: {tables:,} tables a line", *heads)
    for n in A_CATEGORY:
        for alike in ALIKE:
            said = alone = 0
            for _ in range(tables):
                decisions = compared(generator, n, alike, 0.0).values()
                said += any(map(is_said, decisions))
                alone += any(decision.p < ALPHA for decision in decisions)
            limits.false.append(Rate(said, tables))
            table.row(4 * n, alike, limits.false[-1], Rate(alone, tables).plain)


def losses(generator: np.random.Generator, tables: int, limits: Limits) -> None:
    """Print how often a loss in one category at one length is found there, and elsewhere."""
    heads = "questions", "points lost", "found there %", "elsewhere %"
    table = Table(
        f"one setting is worse in {LOST[0]} at {LOST[1]:,}: {tables:,} tables a line", *heads
    )
    for n in A_CATEGORY:
        for loss in LOSSES:
            there = elsewhere = 0
            for _ in range(tables):
                decisions = compared(generator, n, ALIKE[-1], loss)
                there += decisions.pop((NAMES[-1], LOST)).finding is Finding.worse
                elsewhere += any(map(is_said, decisions.values()))
            limits.false.append(Rate(elsewhere, tables))
            table.row(4 * n, f"{100 * loss:.0f}", Rate(there, tables), limits.false[-1])


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    (tables, generator, started), limits = (
        begin("tools_null", __doc__, 1000, "tables"),
        Limits(),
    )
    nulls(generator, tables, limits)
    losses(generator, tables, limits)
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
