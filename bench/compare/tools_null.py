"""How often is a comparison of calls of functions wrong? `python bench/compare/tools_null.py [--tables 1000]`.

A baseline and three settings answer the questions of task=tools: four categories, in contexts of two lengths, which
are the same questions. First all settings are equal: in how many tables is any setting called better or worse in any
category and at any length? The control: the same comparisons without a shared error. Then one setting fills in wrong
arguments more often in one category where contexts are long: how often is that found there, and is anything said of a
category or length that lost nothing? Over all questions the two lengths are clusters, as in cluster_null.py.

Then the 320 questions that ship, and settings that react to functions: what a setting adds to the difficulty of a
question has a part that all questions with a function share, 0 to 50 % of its variance. A question with several
functions has something of each. How often are two equal settings called different, and how often is a loss found? The
control: questions as if they were independent.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from cluster_skewed import p_values
from simulation import NORMAL, Drawn, Limits, Numbers, Rate, Solved, Table, begin

from runner.tasks.tools.cases import Case, read_installed_tool_cases
from runner_base.tool_outcomes import ToolOutcome
from runner_compare.features.tool_calls.compute import Cell
from runner_compare.features.tool_calls.pairs import TableToolCalls, compare_tool_calls_with_baselines
from runner_compare.model.data import Run, TableRow
from runner_compare.model.data import Table as ComparedTable
from runner_compare.model.outcomes import Answers, QuestionOutcome, ToolCase
from runner_compare.statistics import ALPHA, Decision, Finding
from runner_compare.statistics.stats import compute_exact_mcnemar_p_value
from runner_compare.ways.verdicts import compare_answers, create_mcnemar_test

NAMES = ("none", "int8", "nf4", "kv8")
CATEGORIES = {"simple": 0.9, "multiple": 0.8, "parallel": 0.6, "irrelevant": 0.95}  # share right
LENGTHS, SHORTER = (2048, 8192), 0.05  # so much less is right where the context is long
A_CATEGORY = (20, 80)  # questions
ALIKE = (0.5, 0.9)  # how much of a question's difficulty is the same for all settings
LOST = ("parallel", 8192)  # where one setting is worse
LOSSES = (0.1, 0.2, 0.3)
# of what a setting adds: the part that the questions of a function have in common
SHARES = (0.0, 0.1, 0.3, 0.5)
LOSSES_OF_ALL = (0.1, 0.15, 0.2)


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
            met: Solved = math.sqrt(alike) * hard + math.sqrt(1 - alike) * own < NORMAL.inv_cdf(share - less)
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
                    is_right, f"prompt of {length}", own, tools=ToolCase(category, length, outcome)
                )
    return in_cells(answers)


def in_cells(answers: dict[str, Answers]) -> dict[tuple[str, Cell], Decision]:
    """Compare settings with the first one as runner-compare does in each category and at each length."""
    reader, rows = Drawn(), list[TableRow]()
    reader.answers = answers
    for name, of_run in answers.items():
        run = run_of(name, of_run)
        rows.append(TableRow(run, {}, is_baseline=not rows, baseline=rows[0] if rows else None))
    table = ComparedTable("tools", [], rows)
    compare_tool_calls_with_baselines(table, reader)
    return {
        (name, cell): decision
        for name, cells in table.get_section_data(TableToolCalls).compared.items()
        for cell, decision in cells.items()
    }


def run_of(name: str, answers: Answers) -> Run:
    """Return a run as MLflow would have it."""
    right = float(sum(outcome.solved for outcome in answers.values()))
    metrics = {"n": float(len(answers)), "correct": right, "tool_accuracy": right / len(answers)}
    return Run(name, name, "tools", "1", "", {}, metrics)


@dataclass(frozen=True)
class PartTest:
    """The comparison of a part of the questions in each table."""

    difference: Numbers  # answers won minus answers lost
    by_functions: Numbers  # p, as the product has it
    alone: Numbers  # p, as if questions were independent


@dataclass(frozen=True)
class Questions:
    """The questions that ship, and what they have of the effect of each function."""

    cases: list[Case]
    parts: Numbers  # a line for each question

    @classmethod
    def shipped(cls) -> Questions:
        """Read them; the parts of a question's functions have the same variance together as one function."""
        cases = read_installed_tool_cases()
        names = sorted({function["name"] for case in cases for function in case.functions})
        parts = np.zeros((len(cases), len(names)))
        for line, case in zip(parts, cases, strict=True):
            offered = [function["name"] for function in case.functions]
            own = {name for name, _ in case.wanted} or {*offered}
            line[[names.index(name) for name in own]] = 1 / math.sqrt(len(own))
        return cls(cases, parts)

    def answered(
        self, generator: np.random.Generator, share: float, alike: float, losses: Sequence[float]
    ) -> dict[str, Answers]:
        """Draw the answers of settings that lose so much."""
        hard, count = generator.standard_normal(len(self.cases)), self.parts.shape[1]
        answers: dict[str, Answers] = {}
        for number, loss in enumerate(losses):
            common = self.parts @ generator.standard_normal(count)
            own = math.sqrt(share) * common + math.sqrt(1 - share) * generator.standard_normal(len(hard))
            bars = [NORMAL.inv_cdf(CATEGORIES[case.category] - loss) for case in self.cases]
            solved = math.sqrt(alike) * hard + math.sqrt(1 - alike) * own < np.array(bars)
            answers[f"setting {number}"] = {
                (index, case.question, case.gold): QuestionOutcome(
                    bool(is_right),
                    "prompt",
                    case.main_function_name,
                    tools=ToolCase(case.category, 0, outcome_of(bool(is_right))),
                )
                for index, (case, is_right) in enumerate(zip(self.cases, solved, strict=True))
            }
        return answers

    def difficulties(
        self, generator: np.random.Generator, share: float, alike: float, shape: tuple[int, int]
    ) -> Numbers:
        """Draw how difficult each question is [settings, tables, questions]."""
        settings, tables = shape
        hard = generator.standard_normal((tables, len(self.cases)))
        common = generator.standard_normal((*shape, self.parts.shape[1])) @ self.parts.T
        own = generator.standard_normal((settings, tables, len(self.cases)))
        own = math.sqrt(share) * common + math.sqrt(1 - share) * own
        drawn: Numbers = math.sqrt(alike) * hard + math.sqrt(1 - alike) * own
        return drawn

    @cached_property
    def needs_calls(self) -> Solved:
        return np.array([bool(case.wanted) for case in self.cases])

    def test(self, own: Solved, base: Solved, of_part: Solved) -> PartTest:
        """Compare two settings in some of the questions, in all tables [tables, questions]."""
        names = [case.main_function_name for case in self.cases]
        own, base = own[:, of_part], base[:, of_part]
        families = sorted({name for name, is_part in zip(names, of_part, strict=True) if is_part})
        members = np.array([[name == family for family in families] for name in names])[of_part]
        sums = (own.astype(float) - base) @ members
        sizes = np.broadcast_to(members.sum(axis=0).astype(float), sums.shape)
        won, lost = ((one & ~other).sum(axis=1) for one, other in ((own, base), (base, own)))
        alone = [
            compute_exact_mcnemar_p_value(*pair) for pair in zip(won.tolist(), lost.tolist(), strict=True)
        ]
        return PartTest(won - lost, p_values(sums, sizes, 0.0), np.array(alone))


def outcome_of(is_right: bool) -> ToolOutcome:
    """Return an outcome with this verdict."""
    return ToolOutcome.right if is_right else ToolOutcome.wrong_arguments


def p_of_rows(answers: dict[str, Answers]) -> tuple[float, float]:
    """Return the p of all questions of two settings, as runner-compare has it and as if questions were independent."""
    base, own = answers
    own_run, base_run = (run_of(name, answers[name]) for name in (own, base))
    compared = compare_answers(own_run, base_run, (answers[own], answers[base]), Drawn())
    pairs = [(answers[own][key], answers[base][key]) for key in answers[own]]
    return compared.effect.p, create_mcnemar_test(pairs).effect.p


def reactions(generator: np.random.Generator, tables: int, limits: Limits) -> None:
    """Print how often equal settings that react to functions are called different, and how often losses are found."""
    questions = Questions.shipped()
    heads = "share", "points lost", "all questions %", "as independent"
    table = Table(f"two settings, {len(questions.cases)} questions: {tables:,} pairs a line", *heads)
    for share in SHARES:
        for loss in (0.0, *LOSSES_OF_ALL):
            ps = [
                p_of_rows(questions.answered(generator, share, ALIKE[0], (0.0, loss))) for _ in range(tables)
            ]
            found, alone = (Rate(sum(p[at] < ALPHA for p in ps), tables) for at in (0, 1))
            table.row(share, f"{100 * loss:.0f}", found, alone.plain)
            if not loss:
                limits.false.append(found)


def reactions_in_cells(generator: np.random.Generator, tables: int, limits: Limits) -> None:
    """Print how often anything is said of a category of equal settings that react to functions, and how often a loss
    of one setting in all categories is found in any."""
    questions = Questions.shipped()
    heads = "share", "anything is said %", "20 points lost, found in a category %"
    table = Table(f"{len(NAMES)} settings in {len(CATEGORIES)} categories: {tables:,} tables a line", *heads)
    for share in SHARES:
        said, found = (
            Rate(sum(any(map(is_said, in_cells(drawn).values())) for drawn in many), tables)
            for many in (
                [questions.answered(generator, share, ALIKE[0], losses) for _ in range(tables)]
                for losses in ((0.0,) * len(NAMES), (*(0.0,) * (len(NAMES) - 1), LOSSES_OF_ALL[-1]))
            )
        )
        table.row(share, said, found)
        limits.false.append(said)


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
    table = Table(f"one setting is worse in {LOST[0]} at {LOST[1]:,}: {tables:,} tables a line", *heads)
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
    (tables, generator, started), limits = (begin("tools_null", __doc__, 1000, "tables"), Limits())
    nulls(generator, tables, limits)
    losses(generator, tables, limits)
    reactions(generator, tables, limits)
    reactions_in_cells(generator, max(1, tables // 4), limits)
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
