"""Calls of functions as tables, sentences and plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

from runner_base import Column, Result, Sample, Use
from runner_base.tool_outcomes import RIGHT, STEPS, WITHOUT_NEED, ToolOutcome
from runner_compare.features.tool_calls.compute import Cell, CellCalls, ToolFindings
from runner_compare.features.tool_calls.pairs import EVERY_STEP, CallsOfTable, error_families, tool_rows
from runner_compare.model.data import ABSENT, Table
from runner_compare.model.outcomes import QuestionOutcome
from runner_compare.render.columns import naming_of
from runner_compare.render.compared_parts import open_sentence, part_columns, part_sentences, points_words
from runner_compare.render.error_families import error_sentences
from runner_compare.render.labels import name_of
from runner_compare.statistics import Finding

LEGEND = (
    "well formed: the answer is nothing but whole calls where some are needed; right tool: of the functions that are "
    "wanted, as often as they are; right arguments: with all of theirs; nothing called: where nothing should be."
)
BY_OUTCOME = "calls of functions: answers by what came of them"
WORDS = {outcome: outcome.value.replace("_", " ") for outcome in ToolOutcome}


def call_tables(table: Table) -> dict[str, list[Column]]:
    """Return the columns of the tables of steps, of categories, of what failed, and of comparisons, by their titles."""
    kept, (cells, has_lengths) = table.of(CallsOfTable), _cells_of(table)
    shown = {
        "calls of functions: answers that take each step, %": step_columns(table),
        "right calls by category, %": cell_columns(table),
        BY_OUTCOME: outcome_columns(table),
    }
    if kept.steps:
        known = {step for of_row in kept.steps.values() for step in of_row}
        heads = {step: step.replace("_", "\n") for step in EVERY_STEP if step in known}
        shown["steps of calls against the baseline, points"] = part_columns(table, kept.steps, heads)
    if kept.compared:
        of_cells = {cell: cell_words(cell, has_lengths).replace(" at ", "\nat ") for cell in cells}
        shown["right calls against the baseline, points"] = part_columns(table, kept.compared, of_cells)
    return shown


def call_sentences(table: Table) -> list[str]:
    """Say in which categories, at which lengths and steps rows are better or worse than their
    baselines, and whether longer contexts change their calls."""
    kept, (_, has_lengths) = table.of(CallsOfTable), _cells_of(table)
    return [
        *part_sentences("calls", table, kept.compared, lambda cell: f"in {cell_words(cell, has_lengths)}"),
        *open_sentence("right calls", kept.compared),
        *part_sentences("steps", table, kept.steps, lambda step: f"at {step.replace('_', ' ')}"),
        *open_sentence("steps of calls", kept.steps),
        *(
            f"right calls of {name_of(row, table.keys)} at {length:,} against "
            f"{kept.findings[row.run.run_id].lengths[0]:,} tokens: {decision.finding} ({points_words(decision)})"
            for row in tool_rows(table)
            for length, decision in kept.lengths.get(row.run.run_id, {}).items()
            if decision.finding is not Finding.open
        ),
        *open_sentence("longer contexts", kept.lengths),
        *error_sentences(error_families(table)),
    ]


def percent(share: float) -> str:
    """Return a share as a cell: `97.5`."""
    return f"{100 * share:.1f}"


def step_columns(table: Table) -> list[Column]:
    rows, kept = tool_rows(table), table.of(CallsOfTable).findings
    columns = naming_of(table, rows)
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
    lines = [(row, length) for row in tool_rows(table) for length in kept[row.run.run_id].lengths]
    columns = naming_of(table, [row for row, _ in lines])
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
    rows, kept = tool_rows(table), table.of(CallsOfTable).findings
    columns = naming_of(table, rows)
    for outcome in ToolOutcome:
        counts = [sum(cell.counts[outcome] for cell in kept[row.run.run_id].cells) for row in rows]
        if outcome not in RIGHT and any(counts):
            columns.append(Column(WORDS[outcome].replace(" ", "\n"), list(map(str, counts)), use=Use.result))
    answers = [str(len(kept[row.run.run_id].outcomes)) for row in rows]
    return [*columns, Column("of all", answers, use=Use.result)]


def tool_card(result: Result, samples: Sequence[Sample]) -> None:
    """Add to a job's result the shares of each step, those of each category and length, and the
    table of outcomes."""
    findings = ToolFindings(tuple(QuestionOutcome.of(sample) for sample in samples))
    metrics = {"tool_accuracy": fmean(outcome.mean for outcome in findings.outcomes)}
    for name, group in _groups(findings):
        metrics[f"tool_accuracy/{name}"] = fmean(outcome.mean for cell in group for outcome in cell.outcomes)
    metrics |= {f"{step}_share": share for step, share in findings.steps.items()}
    result.metrics |= metrics
    result.tables[BY_OUTCOME] = [outcome_row(cell, len(findings.lengths) > 1) for cell in findings.cells]


def _groups(findings: ToolFindings) -> Iterator[tuple[str, list[CellCalls]]]:
    """Yield the cells of each category and, where there are several, of each length, with the end
    of their metric."""
    for category in dict.fromkeys(cell.category for cell in findings.cells):
        yield category, [cell for cell in findings.cells if cell.category == category]
    for length in findings.lengths if len(findings.lengths) > 1 else []:
        yield f"length_{length}", [cell for cell in findings.cells if cell.length == length]


def outcome_row(cell: CellCalls, has_lengths: bool) -> dict[str, Any]:
    """Return how many answers of a category and a length came to what; only what was seen."""
    filled: dict[str, Any] = {"tokens": cell.length} if has_lengths else {}
    right = {"right": f"{100 * cell.share:.1f} %", "answers": len(cell.outcomes)}
    failed = [
        f"{cell.counts[outcome]} {WORDS[outcome]}"
        for outcome in ToolOutcome
        if outcome in _failures(cell.counts)
    ]
    return {"category": cell.category} | filled | right | {"failed": ", ".join(failed) or "none"}


def _failures(counts: Counter[ToolOutcome]) -> list[ToolOutcome]:
    return [outcome for outcome in counts if outcome not in RIGHT]


def cell_record(cell: CellCalls) -> dict[str, Any]:
    """Return the answers of a category and a length as plain data."""
    low, high = cell.interval
    return {
        "category": cell.category,
        "tokens": cell.length,
        "answers": len(cell.outcomes),
        "right": cell.share,
        "right_low": low,
        "right_high": high,
        "outcomes": {outcome.value: cell.counts[outcome] for outcome in ToolOutcome if cell.counts[outcome]},
    }
