"""Pairs of answers to questions that offer functions: two rows at each step, one row at two lengths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from dataclasses import dataclass, field
from functools import partial

from runner_base.tool_outcomes import STEPS, WITHOUT_NEED, ToolOutcome
from runner_compare.features.tool_calls.compute import Cell, ToolFindings
from runner_compare.model.compared_parts import answers_of_rows, compare_parts, judge_parts, pairs_of_rows
from runner_compare.model.data import Run, Table, TableRow, TooFew
from runner_compare.model.error_families import ErrorFamily, rows_family
from runner_compare.model.mean_pairs import (
    TOOL_ACCURACY,
    cluster_field,
    compare_means,
    has_means,
    with_functions,
)
from runner_compare.model.outcomes import Answers, Question, QuestionOutcome
from runner_compare.reader import Reader
from runner_compare.statistics import Compared, Decision
from runner_compare.ways.verdicts import at_both_ends, by_verdicts

EVERY_STEP = STEPS | {WITHOUT_NEED: frozenset({ToolOutcome.nothing_called})}
OF_NO_NEED = frozenset({ToolOutcome.nothing_called, ToolOutcome.called_without_need})


def answers_by_step(own: Answers, base: Answers) -> dict[str, tuple[Answers, Answers]]:
    """Return the answers of two rows for each step, solved where they have taken it.

    Only the questions count to which a step belongs.
    """
    without_need = {
        outcome.tools.category
        for side in (own, base)
        for outcome in side.values()
        if outcome.tools is not None and outcome.tools.outcome in OF_NO_NEED
    }
    found: dict[str, tuple[Answers, Answers]] = {}
    for step in EVERY_STEP:
        own_part, base_part = (
            {
                question: at_step(outcome, step)
                for question, outcome in side.items()
                if outcome.tools is not None
                and (outcome.tools.category in without_need) == (step == WITHOUT_NEED)
            }
            for side in (own, base)
        )
        if own_part and base_part:
            found[step] = own_part, base_part
    return found


def at_step(outcome: QuestionOutcome, step: str) -> QuestionOutcome:
    """Return an answer as solved where it has taken a step."""
    assert outcome.tools is not None
    return outcome._replace(solved=outcome.tools.outcome in EVERY_STEP[step], right=(0, 0))


def compare_lengths(run: Run, answers: Answers) -> dict[int, Compared]:
    """Compare each length of a row with its shortest one, on the same questions."""
    by_length: dict[int, dict[Question, QuestionOutcome]] = {}
    for question, outcome in _numbered(answers):
        if outcome.tools is not None:
            by_length.setdefault(outcome.tools.length, {})[question] = outcome
    shortest, *longer = sorted(by_length) or [0]
    compared: dict[int, Compared] = {}
    for length in longer:
        own, base = by_length[length], by_length[shortest]
        shared = [question for question in own if question in base]
        pairs = with_functions(shared, [(own[question], base[question]) for question in shared])
        by_means = partial(compare_means, field=cluster_field(run, run))
        if pairs:
            try:
                compared[length] = at_both_ends(by_means if has_means(pairs) else by_verdicts, pairs)
            except TooFew:
                continue  # families: nothing is said
    return compared


def _numbered(answers: Answers) -> Iterator[tuple[Question, QuestionOutcome]]:
    """Yield answers by question and right calls; the number is that among equal ones of a length."""
    counts: dict[tuple[int, str, str], int] = {}
    for (_, question, gold), outcome in answers.items():
        length = outcome.tools.length if outcome.tools else 0
        number = counts.get((length, question, gold), 0)
        counts[length, question, gold] = number + 1
        yield (number, question, gold), outcome


@dataclass
class CallsOfTable:
    """What the rows of a table say, by run id, and the comparisons of each category and length."""

    findings: dict[str, ToolFindings] = field(default_factory=dict)
    compared: dict[str, dict[Cell, Decision]] = field(default_factory=dict)
    steps: dict[str, dict[str, Decision]] = field(default_factory=dict)  # against the baseline
    lengths: dict[str, dict[int, Decision]] = field(default_factory=dict)  # against the shortest


def add_calls(table: Table, reader: Reader) -> None:
    """Read the answers of each row, and compare them with its baseline's in each category and
    length."""
    kept = table.of(CallsOfTable)
    if not table.scored or not any(TOOL_ACCURACY in row.run.metrics for row in table.rows):
        return
    answers = answers_of_rows(table, reader, lambda outcome: outcome.tools is not None)
    for run_id, own in answers.items():
        if own:
            kept.findings[run_id] = ToolFindings(tuple(own.values()))
    of_cells, of_steps = dict[str, dict[Cell, Compared]](), dict[str, dict[str, Compared]]()
    for run, base in pairs_of_rows(table, answers):
        own, other = answers[run.run_id], answers[base.run_id]
        cells, other_cells = _by_cell(own), _by_cell(other)
        shared = {cell: (cells[cell], other_cells[cell]) for cell in cells if cell in other_cells}
        of_cells[run.run_id] = compare_parts(run, base, shared, reader)
        of_steps[run.run_id] = compare_parts(run, base, answers_by_step(own, other), reader)
    kept.compared, kept.steps = judge_parts(of_cells), judge_parts(of_steps)
    kept.lengths = judge_parts(
        {row.run.run_id: compare_lengths(row.run, answers[row.run.run_id]) for row in tool_rows(table)}
    )


def error_families(table: Table) -> list[ErrorFamily]:
    """Return the groups of comparisons of which each shares one error."""
    kept = table.of(CallsOfTable)
    if not kept.findings:
        return []
    groups: dict[str, Mapping[str, Sized]] = {
        "categories and lengths": kept.compared,
        "steps": kept.steps,
        "longer contexts": kept.lengths,
    }
    counts = {what: sum(map(len, of_rows.values())) for what, of_rows in groups.items()}
    shared = [ErrorFamily(what, count) for what, count in counts.items() if count]
    return [*rows_family(table), *shared]


def _by_cell(answers: Answers) -> dict[Cell, Answers]:
    """Return the answers of each category and length; in one cell each question is asked once."""
    by_cell: dict[Cell, Answers] = {}
    for question, outcome in answers.items():
        if outcome.tools is not None:
            cell = outcome.tools.category, outcome.tools.length
            by_cell.setdefault(cell, {})[question] = outcome
    return by_cell


def tool_rows(table: Table) -> list[TableRow]:
    """Return the rows that offered functions."""
    findings = table.of(CallsOfTable).findings
    return [row for row in table.rows if row.run.run_id in findings]
