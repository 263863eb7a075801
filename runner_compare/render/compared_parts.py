"""Render comparisons of subsets of answers (context lengths, categories, steps) in percentage
points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from runner_base import Column, ColumnUse, join_first_names
from runner_compare.model.data import ABSENT, Table
from runner_compare.render.effects import format_p_value
from runner_compare.render.labels import row_versus_baseline
from runner_compare.render.quantities import format_points
from runner_compare.statistics import Decision, Finding

MAX_PLACES = 4  # that a short sentence names
Part = TypeVar("Part")


def subset_columns(
    table: Table, compared: Mapping[str, Mapping[Part, Decision]], heads: Mapping[Part, str]
) -> list[Column]:
    """Return the columns of differences from the baseline, with one column per subset."""
    rows = [row for row in table.rows if row.run.run_id in compared]
    columns = [
        Column(
            "comparison", [row_versus_baseline(row, table.keys) for row in rows], False, use=ColumnUse.setting
        )
    ]
    for part, head in heads.items():
        cells = [_format_cell(compared[row.run.run_id].get(part)) for row in rows]
        columns.append(Column(head, cells, use=ColumnUse.difference))
    return columns


def _format_cell(decision: Decision | None) -> str:
    """Format a difference in points, followed by its finding if there is one."""
    if decision is None:
        return ABSENT
    finding = "" if decision.finding is Finding.open else f" {decision.finding}"
    return f"{format_points(decision.value)}{finding}"


def subset_sentences(
    subject: str,
    table: Table,
    compared: Mapping[str, Mapping[Part, Decision]],
    describe_part: Callable[[Part], str],
) -> list[str]:
    """Return a sentence per row with the subsets in which it is better or worse than its baseline."""
    return [
        f"{subject} of {row_versus_baseline(row, table.keys)}: {'; '.join(parts)}"
        for row in table.rows
        if (
            parts := [
                f"{decision.finding} {describe_part(part)} ({format_points_with_interval(decision)})"
                for part, decision in compared.get(row.run.run_id, {}).items()
                if decision.finding is not Finding.open
            ]
        )
    ]


def short_subset_sentences(
    subject: str,
    table: Table,
    compared: Mapping[str, Mapping[Part, Decision]],
    describe_part: Callable[[Part], str],
) -> list[str]:
    """Return one line per row with the subsets in which it is better or worse, without numbers."""
    lines = []
    for row in table.rows:
        parts: dict[Finding, list[str]] = {}
        for part, decision in compared.get(row.run.run_id, {}).items():
            if decision.finding is not Finding.open:
                parts.setdefault(decision.finding, []).append(describe_part(part))
        shown = [f"{finding} {join_first_names(places, MAX_PLACES)}" for finding, places in parts.items()]
        if shown:
            lines.append(f"{subject} of {row_versus_baseline(row, table.keys)}: {'; '.join(shown)}.")
    return lines


def undecided_sentences(subject: str, compared: Mapping[str, Mapping[Any, Decision]]) -> list[str]:
    """Return a sentence with the number of subset comparisons without a finding; [] if none."""
    findings = [decision.finding for of_row in compared.values() for decision in of_row.values()]
    count = findings.count(Finding.open)
    return [
        f"{subject}: no difference shown in {count} of {len(findings)} comparisons, which share 5 %."
    ] * bool(count)


def format_points_with_interval(decision: Decision) -> str:
    ends = f"[{', '.join(map(format_points, decision.simultaneous_interval))}]"
    return f"{format_points(decision.value)} points {ends}, Holm {format_p_value(decision.p_holm)}"


def question_comparison_record(decision: Decision) -> dict[str, Any]:
    """Return a comparison of questions as JSON data."""
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
