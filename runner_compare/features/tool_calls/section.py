"""Calls of functions in a table: at which step each row's fail, and where rows are better."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sized
from dataclasses import dataclass, field
from typing import Any, TypeVar

from runner_base import Column, Use
from runner_base.tool_outcomes import RIGHT, STEPS, WITHOUT_NEED, ToolOutcome
from runner_compare.features.tool_calls.compute import WORDS, Cell, CellCalls, ToolFindings, cell_record
from runner_compare.features.tool_calls.pairs import EVERY_STEP, answers_by_step, compare_lengths
from runner_compare.model.data import ABSENT, NotPaired, Run, Table, TableRow
from runner_compare.model.error_families import ErrorFamily, error_sentences, errors_record, rows_family
from runner_compare.model.mean_pairs import TOOL_ACCURACY
from runner_compare.model.outcomes import Answers
from runner_compare.reader import Reader
from runner_compare.render.columns import naming_at
from runner_compare.render.effects import p_value
from runner_compare.render.labels import name_of, versus
from runner_compare.render.quantities import points
from runner_compare.section import Section
from runner_compare.statistics import Compared, Decision, Finding, judge
from runner_compare.ways import Asked
from runner_compare.ways.verdicts import compare_answers

Part = TypeVar("Part", bound=Hashable)

STEPS_TITLE = "calls of functions: answers that take each step, %"
CELLS_TITLE = "right calls by category, %"
FAILED_TITLE = "calls of functions: answers by what came of them"
STEPS_COMPARED_TITLE = "steps of calls against the baseline, points"
COMPARED_TITLE = "right calls against the baseline, points"
LEGEND = (
    "well formed: the answer is nothing but whole calls where some are needed; right tool: of the functions that are "
    "wanted, as often as they are; right arguments: with all of theirs; nothing called: where nothing should be."
)


@dataclass
class CallsOfTable:
    """What the rows of a table say, by run id, and the comparisons of each category and length."""

    findings: dict[str, ToolFindings] = field(default_factory=dict)
    compared: dict[str, dict[Cell, Decision]] = field(default_factory=dict)
    steps: dict[str, dict[str, Decision]] = field(default_factory=dict)  # against the baseline
    lengths: dict[str, dict[int, Decision]] = field(default_factory=dict)  # against the shortest


class ToolCalls(Section):
    """Calls of functions."""

    def add(self, table: Table, reader: Reader) -> None:
        """Read what came of each answer, and compare the rows with their baselines in each category
        and length."""
        add_calls(table, reader)

    def tables(self, table: Table) -> dict[str, list[Column]]:
        """Return the tables of steps, of categories, of what failed, and of comparisons."""
        kept = table.of(CallsOfTable)
        if not kept.findings:
            return {}
        shown = {
            STEPS_TITLE: step_columns(table),
            CELLS_TITLE: cell_columns(table),
            FAILED_TITLE: outcome_columns(table),
        }
        if kept.steps:
            shown[STEPS_COMPARED_TITLE] = step_difference_columns(table)
        return shown | ({COMPARED_TITLE: compared_columns(table)} if kept.compared else {})

    def sentences(self, table: Table) -> list[str]:
        """Say in which categories, at which lengths and steps rows are better or worse than their
        baselines, and whether longer contexts change their calls."""
        return [
            *compared_sentences(table),
            *step_sentences(table),
            *length_sentences(table),
            *error_sentences(error_families(table)),
        ]

    def legend(self, table: Table, explain: bool) -> str:
        """Return what the steps are."""
        return LEGEND if table.of(CallsOfTable).findings else ""

    def row_record(self, table: Table, row: TableRow) -> dict[str, Any]:
        """Return what a row's answers came to, with its comparisons."""
        kept = table.of(CallsOfTable)
        findings = kept.findings.get(row.run.run_id)
        if findings is None:
            return {}
        compared = [
            decision_record(cell, decision)
            for cell, decision in kept.compared.get(row.run.run_id, {}).items()
        ]
        cells = [cell_record(cell) for cell in findings.cells]
        steps = [
            {"step": step} | values_record(decision)
            for step, decision in kept.steps.get(row.run.run_id, {}).items()
        ]
        lengths = [
            {"tokens": length, "shortest": findings.lengths[0]} | values_record(decision)
            for length, decision in kept.lengths.get(row.run.run_id, {}).items()
        ]
        parts = {"compared": compared, "steps_compared": steps, "lengths_compared": lengths}
        return {"tool_calls": {"steps": findings.steps, "cells": cells, **parts}}

    def record(self, table: Table) -> dict[str, Any]:
        """Return which comparisons share an error."""
        return errors_record(error_families(table)) if table.of(CallsOfTable).findings else {}

    def sheet(self, table: Table, row: TableRow) -> dict[str, Any]:
        """Return the shares of each step, and of each category and length, as columns of CSV."""
        findings = table.of(CallsOfTable).findings.get(row.run.run_id)
        if findings is None:
            return {}
        cells = {f"right_calls_{cell.category}_{cell.length}": cell.share for cell in findings.cells}
        return {f"{step}_share": share for step, share in findings.steps.items()} | cells


def add_calls(table: Table, reader: Reader) -> None:
    """Read the answers of each row, and compare them with its baseline's in each category and
    length."""
    kept = table.of(CallsOfTable)
    if not table.scored or not any(TOOL_ACCURACY in row.run.metrics for row in table.rows):
        return
    answers: dict[str, Answers] = {}
    for row in table.rows:
        try:
            own = reader.of(row.run)
        except NotPaired:
            continue
        answers[row.run.run_id] = {
            question: outcome for question, outcome in own.items() if outcome.tools is not None
        }
    for run_id, own in answers.items():
        if own:
            kept.findings[run_id] = ToolFindings(tuple(own.values()))
    pairs = [
        (row.run, row.baseline.run)
        for row in table.settings
        if row.run.run_id in answers and row.baseline is not None and row.baseline.run.run_id in answers
    ]
    of_cells, of_steps = dict[str, dict[Cell, Compared]](), dict[str, dict[str, Compared]]()
    for run, base in pairs:
        own, other = answers[run.run_id], answers[base.run_id]
        cells, other_cells = _by_cell(own), _by_cell(other)
        shared = {cell: (cells[cell], other_cells[cell]) for cell in cells if cell in other_cells}
        of_cells[run.run_id] = _compared(run, base, shared, reader)
        of_steps[run.run_id] = _compared(run, base, answers_by_step(own, other), reader)
    kept.compared, kept.steps = _judged(of_cells), _judged(of_steps)
    kept.lengths = _judged(
        {row.run.run_id: compare_lengths(row.run, answers[row.run.run_id]) for row in _rows(table)}
    )


def _judged(compared: Mapping[str, Mapping[Part, Compared]]) -> dict[str, dict[Part, Decision]]:
    """Decide about all comparisons, with one error; rows without any are left out."""
    places = [(run_id, part) for run_id, own in compared.items() for part in own]
    decided: dict[str, dict[Part, Decision]] = {}
    decisions = judge([compared[run_id][part] for run_id, part in places])
    for (run_id, part), decision in zip(places, decisions, strict=True):
        decided.setdefault(run_id, {})[part] = decision
    return decided


def _compared(
    run: Run, base: Run, answers: Mapping[Part, tuple[Answers, Answers]], reader: Reader
) -> dict[Part, Compared]:
    """Compare two rows in each part of their answers."""
    compared: dict[Part, Compared] = {}
    for part, sides in answers.items():
        try:
            compared[part] = compare_answers(run, base, sides, reader, Asked())
        except NotPaired:
            continue  # other questions, prompts or rules: the note of the row says so
    return compared


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


# ------------------------------------------------------------------------------------------ columns


def _rows(table: Table) -> list[TableRow]:
    """Return the rows that offered functions."""
    findings = table.of(CallsOfTable).findings
    return [row for row in table.rows if row.run.run_id in findings]


def _naming(table: Table, rows: list[TableRow]) -> list[Column]:
    """Return the columns that name some rows of a table."""
    return naming_at(table, [table.rows.index(row) for row in rows])


def percent(share: float) -> str:
    """Return a share as a cell: `97.5`."""
    return f"{100 * share:.1f}"


def step_columns(table: Table) -> list[Column]:
    rows, kept = _rows(table), table.of(CallsOfTable).findings
    columns = _naming(table, rows)
    for step in (*STEPS, WITHOUT_NEED):
        shares = [kept[row.run.run_id].steps.get(step) for row in rows]
        if any(share is not None for share in shares):
            cells = [ABSENT if share is None else percent(share) for share in shares]
            columns.append(Column(step.replace("_", "\n"), cells, use=Use.result))
    return columns


def cell_words(cell: Cell, has_lengths: bool) -> str:
    """Return a category with its length, where there are several: `parallel at 4,096`."""
    category, length = cell
    if not has_lengths:
        return category
    return f"{category} at {length:,}" if length else f"{category}, not filled"


def _cells_of(table: Table) -> tuple[list[Cell], bool]:
    """Return the categories and lengths of all rows, and whether there are several lengths."""
    found = [cell for findings in table.of(CallsOfTable).findings.values() for cell in findings.cells]
    cells = list(dict.fromkeys((cell.category, cell.length) for cell in found))
    return cells, len({length for _, length in cells}) > 1


def cell_columns(table: Table) -> list[Column]:
    """Return the columns of right answers in each category, a line for each length of a row."""
    kept = table.of(CallsOfTable).findings
    cells, has_lengths = _cells_of(table)
    lines = [(row, length) for row in _rows(table) for length in kept[row.run.run_id].lengths]
    columns = _naming(table, [row for row, _ in lines])
    if has_lengths:
        filled = [f"{length:,}" if length else ABSENT for _, length in lines]
        columns.append(Column("tokens", filled, use=Use.setting))
    for category in dict.fromkeys(category for category, _ in cells):
        found = [_cell(kept[row.run.run_id], category, length) for row, length in lines]
        shown = [
            ABSENT if cell is None else f"{percent(cell.share)} of {len(cell.outcomes)}" for cell in found
        ]
        columns.append(Column(category, shown, use=Use.result))
    return columns


def _cell(findings: ToolFindings, category: str, length: int) -> CellCalls | None:
    return next((cell for cell in findings.cells if (cell.category, cell.length) == (category, length)), None)


def outcome_columns(table: Table) -> list[Column]:
    """Return a column for each way in which an answer failed, with how many did."""
    rows, kept = _rows(table), table.of(CallsOfTable).findings
    columns = _naming(table, rows)
    for outcome in ToolOutcome:
        counts = [sum(cell.counts[outcome] for cell in kept[row.run.run_id].cells) for row in rows]
        if outcome not in RIGHT and any(counts):
            columns.append(Column(WORDS[outcome].replace(" ", "\n"), list(map(str, counts)), use=Use.result))
    answers = [str(len(kept[row.run.run_id].outcomes)) for row in rows]
    return [*columns, Column("of all", answers, use=Use.result)]


def compared_columns(table: Table) -> list[Column]:
    """Return the columns of the differences to the baseline, a column for each category and
    length."""
    cells, has_lengths = _cells_of(table)
    heads = {cell: cell_words(cell, has_lengths).replace(" at ", "\nat ") for cell in cells}
    return _difference_columns(table, table.of(CallsOfTable).compared, heads)


def step_difference_columns(table: Table) -> list[Column]:
    """Return the columns of the differences to the baseline, a column for each step."""
    compared = table.of(CallsOfTable).steps
    known = {step for of_row in compared.values() for step in of_row}
    heads = {step: step.replace("_", "\n") for step in EVERY_STEP if step in known}
    return _difference_columns(table, compared, heads)


def _difference_columns(
    table: Table, compared: Mapping[str, Mapping[Part, Decision]], heads: Mapping[Part, str]
) -> list[Column]:
    rows = [row for row in _rows(table) if row.run.run_id in compared]
    names = [versus(row, table.keys) for row in rows]
    columns = [Column("comparison", names, False, use=Use.setting)]
    for part, head in heads.items():
        decisions = [compared[row.run.run_id].get(part) for row in rows]
        cells = [ABSENT if decision is None else _difference_cell(decision) for decision in decisions]
        columns.append(Column(head, cells, use=Use.difference))
    return columns


def _difference_cell(decision: Decision) -> str:
    """Return a difference in points, with the finding if one is shown."""
    finding = "" if decision.finding is Finding.open else f" {decision.finding}"
    return f"{points(decision.value)}{finding}"


# ----------------------------------------------------------------------------------- words and data


def compared_sentences(table: Table) -> list[str]:
    """Say where rows are better or worse than their baselines, and of how many comparisons that is
    not shown."""
    compared, (_, has_lengths) = table.of(CallsOfTable).compared, _cells_of(table)
    said, tests, shown = [], 0, 0
    for row in _rows(table):
        own = compared.get(row.run.run_id, {})
        found = {cell: decision for cell, decision in own.items() if decision.finding is not Finding.open}
        parts = [
            f"{decision.finding} in {cell_words(cell, has_lengths)} ({_difference(decision)})"
            for cell, decision in found.items()
        ]
        if parts:
            said.append(f"calls of {versus(row, table.keys)}: {'; '.join(parts)}")
        tests, shown = tests + len(own), shown + len(found)
    if shown < tests:
        said.append(
            f"right calls: no difference shown in {tests - shown} of {tests} comparisons, which share 5 %"
        )
    return said


def step_sentences(table: Table) -> list[str]:
    """Say at which steps rows are better or worse than their baselines."""
    kept = table.of(CallsOfTable).steps
    said = [
        f"steps of {versus(row, table.keys)}: {'; '.join(parts)}"
        for row in _rows(table)
        if (
            parts := [
                f"{decision.finding} at {step.replace('_', ' ')} ({_difference(decision)})"
                for step, decision in kept.get(row.run.run_id, {}).items()
                if decision.finding is not Finding.open
            ]
        )
    ]
    return [*said, *_open_sentence("steps of calls", kept)]


def length_sentences(table: Table) -> list[str]:
    """Say which rows call better or worse where contexts are longer than the shortest."""
    kept = table.of(CallsOfTable)
    said = [
        f"right calls of {name_of(row, table.keys)} at {length:,} against "
        f"{kept.findings[row.run.run_id].lengths[0]:,} tokens: {decision.finding} ({_difference(decision)})"
        for row in _rows(table)
        for length, decision in kept.lengths.get(row.run.run_id, {}).items()
        if decision.finding is not Finding.open
    ]
    return [*said, *_open_sentence("longer contexts", kept.lengths)]


def _open_sentence(what: str, compared: Mapping[str, Mapping[Any, Decision]]) -> list[str]:
    findings = [decision.finding for own in compared.values() for decision in own.values()]
    count = sum(finding is Finding.open for finding in findings)
    if not count:
        return []
    return [f"{what}: no difference shown in {count} of {len(findings)} comparisons, which share 5 %"]


def _difference(decision: Decision) -> str:
    ends = f"[{', '.join(map(points, decision.simultaneous))}]"
    return f"{points(decision.value)} points {ends}, Holm {p_value(decision.p_holm)}"


def decision_record(cell: Cell, decision: Decision) -> dict[str, Any]:
    """Return a comparison in one category and at one length as plain data."""
    return {"category": cell[0], "tokens": cell[1]} | values_record(decision)


def values_record(decision: Decision) -> dict[str, Any]:
    """Return a comparison as plain data."""
    return {
        "questions": decision.n,
        "difference": decision.value,
        "difference_low": decision.low,
        "difference_high": decision.high,
        "simultaneous_low": decision.simultaneous_low,
        "simultaneous_high": decision.simultaneous_high,
        "p": decision.p,
        "p_holm": decision.p_holm,
        "finding": decision.finding,
    }


SECTION = ToolCalls()
