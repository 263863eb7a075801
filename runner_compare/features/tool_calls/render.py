"""Renders tool-calling results as tables, sentences and JSON data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

from runner_base import Column, ColumnUse, Result, Sample
from runner_base.tool_outcomes import RIGHT, STEPS, WITHOUT_NEED, ToolOutcome
from runner_compare.features.tool_calls.compute import Cell, CellCalls, ToolFindings
from runner_compare.features.tool_calls.pairs import (
    EVERY_STEP,
    TableToolCalls,
    list_tool_call_error_families,
    list_tool_rows,
)
from runner_compare.model.data import ABSENT, Table
from runner_compare.model.outcomes import QuestionOutcome
from runner_compare.render.columns import build_row_name_columns_for
from runner_compare.render.compared_parts import (
    build_subset_columns,
    format_points_with_interval,
    format_subset_sentences,
    format_undecided_comparison_sentences,
    summarize_subset_findings_per_row,
)
from runner_compare.render.error_families import format_error_rate_sentences
from runner_compare.render.labels import format_row_name
from runner_compare.statistics import Finding

LEGEND = (
    "Well formed: where calls are needed, the answer is nothing but whole calls. Right tool: it calls the wanted "
    "functions, as often as wanted. Right arguments: with all their arguments. Nothing called: where no call is wanted."
)
BY_CATEGORY = "right calls by category, %"
BY_OUTCOME = "tool calls: number of answers per outcome"
WORDS = {outcome: outcome.value.replace("_", " ") for outcome in ToolOutcome}


def build_tool_call_tables(table: Table) -> dict[str, list[Column]]:
    kept, (cells, has_lengths) = table.get_section_data(TableToolCalls), _list_category_length_pairs(table)
    shown = {
        "tool calls: answers that pass each step, %": build_columns_of_tool_call_checks(table),
        BY_CATEGORY: build_category_columns(table),
        BY_OUTCOME: build_tool_call_outcome_columns(table),
    }
    if kept.steps:
        known = {step for of_row in kept.steps.values() for step in of_row}
        heads = {step: step.replace("_", "\n") for step in EVERY_STEP if step in known}
        shown["tool-call steps: difference from the baseline, points"] = build_subset_columns(
            table, kept.steps, heads
        )
    if kept.compared:
        of_cells = {
            cell: format_category_and_context_length(cell, has_lengths).replace(" at ", "\nat ")
            for cell in cells
        }
        shown["right calls against the baseline, points"] = build_subset_columns(
            table, kept.compared, of_cells
        )
    return shown


def short_call_tables(table: Table) -> dict[str, list[Column]]:
    return {BY_CATEGORY: build_category_columns(table)}


def format_short_call_sentences(table: Table) -> list[str]:
    kept, (_, has_lengths) = table.get_section_data(TableToolCalls), _list_category_length_pairs(table)
    return [
        *summarize_subset_findings_per_row(
            "calls",
            table,
            kept.compared,
            lambda cell: f"in {format_category_and_context_length(cell, has_lengths)}",
        ),
        *summarize_subset_findings_per_row(
            "steps", table, kept.steps, lambda step: f"at {step.replace('_', ' ')}"
        ),
        *(
            f"{format_row_name(row, table.keys)}: correct calls at {length:,} tokens are {decision.finding} than at "
            f"{kept.findings[row.run.run_id].context_lengths[0]:,} tokens."
            for row in list_tool_rows(table)
            for length, decision in kept.lengths.get(row.run.run_id, {}).items()
            if decision.finding is not Finding.open
        ),
    ]


def format_tool_call_findings(table: Table) -> list[str]:
    """Return sentences on the categories, lengths and steps in which runs differ from the baseline.

    They also say whether longer contexts change a row's calls.
    """
    kept, (_, has_lengths) = table.get_section_data(TableToolCalls), _list_category_length_pairs(table)
    return [
        *format_subset_sentences(
            "calls",
            table,
            kept.compared,
            lambda cell: f"in {format_category_and_context_length(cell, has_lengths)}",
        ),
        *format_undecided_comparison_sentences("right calls", kept.compared),
        *format_subset_sentences("steps", table, kept.steps, lambda step: f"at {step.replace('_', ' ')}"),
        *format_undecided_comparison_sentences("steps of calls", kept.steps),
        *(
            f"{format_row_name(row, table.keys)}: correct calls at {length:,} tokens, compared with "
            f"{kept.findings[row.run.run_id].context_lengths[0]:,} tokens: "
            f"{decision.finding} ({format_points_with_interval(decision)})"
            for row in list_tool_rows(table)
            for length, decision in kept.lengths.get(row.run.run_id, {}).items()
            if decision.finding is not Finding.open
        ),
        *format_undecided_comparison_sentences("longer contexts", kept.lengths),
        *format_error_rate_sentences(list_tool_call_error_families(table)),
    ]


def format_percent(fraction: float) -> str:
    """Format a fraction in percent without unit for a table cell, e.g. `97.5`."""
    return f"{100 * fraction:.1f}"


def build_columns_of_tool_call_checks(table: Table) -> list[Column]:
    rows, kept = list_tool_rows(table), table.get_section_data(TableToolCalls).findings
    columns = build_row_name_columns_for(table, rows)
    for step in (*STEPS, WITHOUT_NEED):
        shares = [kept[row.run.run_id].tool_call_step_pass_rates.get(step) for row in rows]
        if any(share is not None for share in shares):
            cells = [ABSENT if share is None else format_percent(share) for share in shares]
            columns.append(Column(step.replace("_", "\n"), cells, use=ColumnUse.result))
    return columns


def format_category_and_context_length(cell: Cell, has_lengths: bool) -> str:
    """Return a category's name, with the context length if there are several: `parallel at 4,096`."""
    category, length = cell
    if not has_lengths:
        return category
    return f"{category} at {length:,}" if length else f"{category}, not filled"


def _list_category_length_pairs(table: Table) -> tuple[list[Cell], bool]:
    """Return all pairs of category and context length, and whether there are several context lengths."""
    found = [
        cell
        for findings in table.get_section_data(TableToolCalls).findings.values()
        for cell in findings.cells
    ]
    cells = list(dict.fromkeys((cell.category, cell.length) for cell in found))
    return cells, len({length for _, length in cells}) > 1


def build_category_columns(table: Table) -> list[Column]:
    kept = table.get_section_data(TableToolCalls).findings
    cells, has_lengths = _list_category_length_pairs(table)
    lines = [
        (row, length) for row in list_tool_rows(table) for length in kept[row.run.run_id].context_lengths
    ]
    columns = build_row_name_columns_for(table, [row for row, _ in lines])
    if has_lengths:
        filled = [f"{length:,}" if length else ABSENT for _, length in lines]
        columns.append(Column("tokens", filled, use=ColumnUse.setting))
    for category in dict.fromkeys(category for category, _ in cells):
        found = [_find_cell(kept[row.run.run_id], category, length) for row, length in lines]
        shown = [
            ABSENT if cell is None else f"{format_percent(cell.accuracy)} of {len(cell.outcomes)}"
            for cell in found
        ]
        columns.append(Column(category, shown, use=ColumnUse.result))
    return columns


def _find_cell(findings: ToolFindings, category: str, length: int) -> CellCalls | None:
    return next((cell for cell in findings.cells if (cell.category, cell.length) == (category, length)), None)


def build_tool_call_outcome_columns(table: Table) -> list[Column]:
    rows, kept = list_tool_rows(table), table.get_section_data(TableToolCalls).findings
    columns = build_row_name_columns_for(table, rows)
    for outcome in ToolOutcome:
        counts = [sum(cell.outcome_counts[outcome] for cell in kept[row.run.run_id].cells) for row in rows]
        if outcome not in RIGHT and any(counts):
            columns.append(
                Column(WORDS[outcome].replace(" ", "\n"), list(map(str, counts)), use=ColumnUse.result)
            )
    answers = [str(len(kept[row.run.run_id].outcomes)) for row in rows]
    return [*columns, Column("of all", answers, use=ColumnUse.result)]


def add_tool_call_metrics(result: Result, samples: Sequence[Sample]) -> None:
    findings = ToolFindings(tuple(QuestionOutcome.from_sample(sample) for sample in samples))
    metrics = {"tool_accuracy": fmean(outcome.accuracy for outcome in findings.outcomes)}
    for name, group in _iter_results_by_metric_suffix(findings):
        metrics[f"tool_accuracy/{name}"] = fmean(
            outcome.accuracy for cell in group for outcome in cell.outcomes
        )
    metrics |= {f"{step}_share": share for step, share in findings.tool_call_step_pass_rates.items()}
    result.metrics |= metrics
    result.tables[BY_OUTCOME] = [
        build_outcome_table_row(cell, len(findings.context_lengths) > 1) for cell in findings.cells
    ]


def _iter_results_by_metric_suffix(findings: ToolFindings) -> Iterator[tuple[str, list[CellCalls]]]:
    """Yield the metric suffix and the results of each category, and of each context length.

    Context lengths are omitted if there is only one.
    """
    for category in dict.fromkeys(cell.category for cell in findings.cells):
        yield category, [cell for cell in findings.cells if cell.category == category]
    for length in findings.context_lengths if len(findings.context_lengths) > 1 else []:
        yield f"length_{length}", [cell for cell in findings.cells if cell.length == length]


def build_outcome_table_row(cell: CellCalls, has_lengths: bool) -> dict[str, Any]:
    filled: dict[str, Any] = {"tokens": cell.length} if has_lengths else {}
    right = {"right": f"{100 * cell.accuracy:.1f} %", "answers": len(cell.outcomes)}
    failed = [
        f"{cell.outcome_counts[outcome]} {WORDS[outcome]}"
        for outcome in ToolOutcome
        if outcome in _failed_outcomes(cell.outcome_counts)
    ]
    return {"category": cell.category} | filled | right | {"failed": ", ".join(failed) or "none"}


def _failed_outcomes(counts: Counter[ToolOutcome]) -> list[ToolOutcome]:
    return [outcome for outcome in counts if outcome not in RIGHT]


def build_cell_record(cell: CellCalls) -> dict[str, Any]:
    low, high = cell.interval
    return {
        "category": cell.category,
        "tokens": cell.length,
        "answers": len(cell.outcomes),
        "right": cell.accuracy,
        "right_low": low,
        "right_high": high,
        "outcomes": {
            outcome.value: cell.outcome_counts[outcome]
            for outcome in ToolOutcome
            if cell.outcome_counts[outcome]
        },
    }
