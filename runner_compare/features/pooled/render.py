"""Renders verdicts pooled over several tasks as a table, sentences and JSON data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from runner_base import Column, ColumnUse
from runner_compare.features.cut_offs.render import flatten_cut_off_answers_record, format_cut_off_finding
from runner_compare.features.pooled.compute import PooledTable
from runner_compare.model.comparison import ReportPart, TableGrid
from runner_compare.model.data import ABSENT, Table, TableRow
from runner_compare.render.columns import build_row_name_columns, effect_columns
from runner_compare.render.conclusion import conclusion_text
from runner_compare.render.effects import format_effect, format_effects_legend
from runner_compare.render.findings import format_row_finding_sentence
from runner_compare.render.labels import format_assignments
from runner_compare.render.parts import row_sentence_with_finding
from runner_compare.render.quantities import REPEATS, find_quantity
from runner_compare.render.row_records import build_effect_and_truncation_records
from runner_compare.render.short_table import build_row_label_columns, format_verdict_cell
from runner_compare.statistics import Finding
from runner_compare.statistics.pooling import PoolingWeights


def build_pooled_report_part(table: PooledTable) -> ReportPart:
    what = "accuracy" if table.unit == "points" else "log-likelihood"
    title = f"{what} over {len(table.sets)} sets of questions (differences in {table.unit})"
    said = [
        said
        for row in table.rows
        for said in row_sentence_with_finding(row, format_pooled_sentence(row, table))
    ]
    return ReportPart(
        title,
        [TableGrid(build_pooled_comparison_columns(table))],
        said,
        [TableGrid(build_short_pooled_table_columns(table))],
        [],
        legend=format_pooled_legend(table),
        short_conclusion=conclusion_text(table.rows),
    )


def format_pooled_legend(table: PooledTable) -> str:
    """Explain how a pooled table weights its sets of questions, and which test it uses."""
    counts = "question" if table.unit == "points" else table.unit.removeprefix("nats/")
    each = {
        PoolingWeights.questions: f"Every {counts} has equal weight, so larger sets have more weight",
        PoolingWeights.tasks: "Every set of questions has equal weight, regardless of size",
    }[table.weights]
    explained = format_effects_legend([effect for row in table.rows for effect in row.effects])
    return f"Pooled Δ is the weighted mean over {', '.join(table.sets)}. {each}. {explained}".strip()


def format_pooled_sentence(row: TableRow, table: PooledTable) -> str:
    if row.note is not None:
        return f"{format_assignments(row, table.keys) or row.run.job_id}: not pooled, {row.note}."
    return format_row_finding_sentence(row, table.keys).replace(
        " (n=", f" over {len(table.sets)} sets (n=", 1
    )


def build_pooled_comparison_columns(table: PooledTable) -> list[Column]:
    naming_table = Table("", table.keys, table.rows)
    difference, *test = effect_columns(table.rows, table.unit)
    return [
        *build_row_name_columns(naming_table),
        *_question_set_columns(table),
        replace(difference, head=f"pooled\n{difference.head.replace(chr(10), ' ')}"),
        *test,
        Column(
            "finding",
            [format_cut_off_finding(row.effect) if row.effect else "not pooled" for row in table.rows],
            False,
            use=ColumnUse.verdict,
        ),
    ]


def build_short_pooled_table_columns(table: PooledTable) -> list[Column]:
    """Return the columns of a pooled table: configuration, difference on each set, pooled
    difference, verdict.
    """
    naming_table = Table("", table.keys, table.rows)
    values = [format_effect(row.effect) if row.effect else ABSENT for row in table.rows]
    return [
        *build_row_label_columns(naming_table),
        *_question_set_columns(table),
        Column("pooled [95 %]", values, use=ColumnUse.difference),
        Column("verdict", list(map(format_verdict_cell, table.rows)), False, use=ColumnUse.verdict),
    ]


def _question_set_columns(table: PooledTable) -> list[Column]:
    return [
        Column(
            name,
            [_format_cell(table.cells[row.run.job_id][number]) for row in table.rows],
            use=ColumnUse.difference,
        )
        for number, name in enumerate(table.sets)
    ]


def _format_cell(row: TableRow | None) -> str:
    if row is None or row.effect is None:
        return ABSENT
    finding = "" if row.effect.finding is Finding.open else f" {row.effect.finding}"
    return f"{find_quantity(row.effect).write(row.effect.value)}{finding}"


def build_pooled_csv_lines(table: PooledTable) -> list[dict[str, Any]]:
    lines = []
    for row in table.rows:
        effects = [
            value for value in build_effect_and_truncation_records(row).values() if isinstance(value, dict)
        ]
        effect = effects[0] if effects else {}
        ends = flatten_cut_off_answers_record(effect.pop("without_limit", {}))
        sets = {"pooled_over": "; ".join(table.sets), "weights": table.weights.value, "note": row.note}
        lines.append({"task": "pooled", **row.config, **sets, **effect, **ends})
    return lines


def pooled_record(table: PooledTable) -> dict[str, Any]:
    return {
        "unit": table.unit,
        "weights": table.weights.value,
        "baseline": table.baseline,
        "setting_keys": table.keys,
        "sets": table.sets,
        "rows": [
            {
                "config": row.config,
                "differences": {
                    name: {
                        "job_id": cell.run.job_id,
                        "difference": cell.effect.value,
                        "finding": cell.effect.finding,
                    }
                    for name, cell in zip(table.sets, table.cells[row.run.job_id], strict=True)
                    if cell is not None and cell.effect is not None
                },
                **{
                    key: value
                    for key, value in build_effect_and_truncation_records(row).items()
                    if key != REPEATS.record_key
                },
                "note": row.note,
            }
            for row in table.rows
        ],
        "sentences": [format_pooled_sentence(row, table) for row in table.rows],
    }
