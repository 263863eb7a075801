"""Renders comparisons on subsets of the questions, such as one context length or one category."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from runner_base import Column, ColumnUse, join_first_names
from runner_compare.model.data import ABSENT, Table
from runner_compare.render.effects import format_p_value
from runner_compare.render.labels import format_row_and_baseline_names
from runner_compare.render.quantities import format_percentage_points
from runner_compare.statistics import Decision, Finding

MAX_PLACES = 4  # that a short sentence names
Subset = TypeVar("Subset")


def build_subset_columns(
    table: Table,
    decisions_by_run: Mapping[str, Mapping[Subset, Decision]],
    head_by_subset: Mapping[Subset, str],
) -> list[Column]:
    rows = [row for row in table.rows if row.run.run_id in decisions_by_run]
    columns = [
        Column(
            "comparison",
            [format_row_and_baseline_names(row, table.keys) for row in rows],
            False,
            use=ColumnUse.setting,
        )
    ]
    for part, head in head_by_subset.items():
        cells = [_format_cell(decisions_by_run[row.run.run_id].get(part)) for row in rows]
        columns.append(Column(head, cells, use=ColumnUse.difference))
    return columns


def _format_cell(decision: Decision | None) -> str:
    if decision is None:
        return ABSENT
    finding = "" if decision.finding is Finding.open else f" {decision.finding}"
    return f"{format_percentage_points(decision.value)}{finding}"


def format_subset_sentences(
    subject: str,
    table: Table,
    decisions_by_run: Mapping[str, Mapping[Subset, Decision]],
    describe_subset: Callable[[Subset], str],
) -> list[str]:
    return [
        f"{subject} of {format_row_and_baseline_names(row, table.keys)}: {'; '.join(parts)}"
        for row in table.rows
        if (
            parts := [
                f"{decision.finding} {describe_subset(part)} ({format_points_with_interval(decision)})"
                for part, decision in decisions_by_run.get(row.run.run_id, {}).items()
                if decision.finding is not Finding.open
            ]
        )
    ]


def summarize_subset_findings_per_row(
    subject: str,
    table: Table,
    decisions_by_run: Mapping[str, Mapping[Subset, Decision]],
    describe_subset: Callable[[Subset], str],
) -> list[str]:
    lines = []
    for row in table.rows:
        parts: dict[Finding, list[str]] = {}
        for part, decision in decisions_by_run.get(row.run.run_id, {}).items():
            if decision.finding is not Finding.open:
                parts.setdefault(decision.finding, []).append(describe_subset(part))
        shown = [f"{finding} {join_first_names(places, MAX_PLACES)}" for finding, places in parts.items()]
        if shown:
            lines.append(
                f"{subject} of {format_row_and_baseline_names(row, table.keys)}: {'; '.join(shown)}."
            )
    return lines


def format_undecided_comparison_sentences(
    subject: str, compared: Mapping[str, Mapping[Any, Decision]]
) -> list[str]:
    findings = [decision.finding for of_row in compared.values() for decision in of_row.values()]
    count = findings.count(Finding.open)
    return [
        f"{subject}: {count} of {len(findings)} comparisons show no significant difference "
        "at a family-wise error rate of 5 %."
    ] * bool(count)


def format_points_with_interval(decision: Decision) -> str:
    ends = f"[{', '.join(map(format_percentage_points, decision.simultaneous_interval))}]"
    return f"{format_percentage_points(decision.value)} points {ends}, Holm {format_p_value(decision.p_holm)}"


def question_comparison_record(decision: Decision) -> dict[str, Any]:
    return {"questions": decision.n} | difference_record(decision)


def difference_record(decision: Decision) -> dict[str, Any]:
    return {
        "difference": decision.value,
        "difference_low": decision.low,
        "difference_high": decision.high,
        "simultaneous_low": decision.simultaneous_low,
        "simultaneous_high": decision.simultaneous_high,
        "p": decision.p,
        "p_holm": decision.p_holm,
        "finding": decision.finding,
    }
