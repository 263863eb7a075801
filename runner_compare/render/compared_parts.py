"""Comparisons in parts of the answers (lengths, categories, steps), in points: columns, sentences and plain data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from runner_base import Column, Use
from runner_compare.model.data import ABSENT, Table
from runner_compare.render.effects import p_value
from runner_compare.render.labels import versus
from runner_compare.render.quantities import points
from runner_compare.statistics import Decision, Finding

Part = TypeVar("Part")


def part_columns(
    table: Table, compared: Mapping[str, Mapping[Part, Decision]], heads: Mapping[Part, str]
) -> list[Column]:
    """Return the columns of the differences to the baseline, a column for each part."""
    rows = [row for row in table.rows if row.run.run_id in compared]
    columns = [Column("comparison", [versus(row, table.keys) for row in rows], False, use=Use.setting)]
    for part, head in heads.items():
        cells = [_cell(compared[row.run.run_id].get(part)) for row in rows]
        columns.append(Column(head, cells, use=Use.difference))
    return columns


def _cell(decision: Decision | None) -> str:
    """Return a difference in points, with the finding if one is shown."""
    if decision is None:
        return ABSENT
    finding = "" if decision.finding is Finding.open else f" {decision.finding}"
    return f"{points(decision.value)}{finding}"


def part_sentences(
    what: str, table: Table, compared: Mapping[str, Mapping[Part, Decision]], place: Callable[[Part], str]
) -> list[str]:
    """Say in which parts rows are better or worse than their baselines."""
    return [
        f"{what} of {versus(row, table.keys)}: {'; '.join(parts)}"
        for row in table.rows
        if (
            parts := [
                f"{decision.finding} {place(part)} ({points_words(decision)})"
                for part, decision in compared.get(row.run.run_id, {}).items()
                if decision.finding is not Finding.open
            ]
        )
    ]


def open_sentence(what: str, compared: Mapping[str, Mapping[Any, Decision]]) -> list[str]:
    """Say of how many comparisons no difference is shown; nothing if there are none."""
    findings = [decision.finding for of_row in compared.values() for decision in of_row.values()]
    count = findings.count(Finding.open)
    return [f"{what}: no difference shown in {count} of {len(findings)} comparisons, which share 5 %"] * bool(
        count
    )


def points_words(decision: Decision) -> str:
    ends = f"[{', '.join(map(points, decision.simultaneous))}]"
    return f"{points(decision.value)} points {ends}, Holm {p_value(decision.p_holm)}"


def questions_record(decision: Decision) -> dict[str, Any]:
    """Return a comparison of questions as plain data."""
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
