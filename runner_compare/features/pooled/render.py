"""Table, sentences and JSON data of verdicts pooled over several tasks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from runner_base import Column, ColumnUse
from runner_compare.features.cut_offs.render import finding_text, flatten_cut_off_record
from runner_compare.features.pooled.compute import PooledTable
from runner_compare.model.comparison import ReportPart, TableGrid
from runner_compare.model.data import ABSENT, Table, TableRow
from runner_compare.render.columns import effect_columns, naming_columns
from runner_compare.render.conclusion import conclusion_text
from runner_compare.render.effects import effects_legend, format_effect
from runner_compare.render.findings import finding_sentence
from runner_compare.render.labels import format_assignments
from runner_compare.render.parts import row_sentence_with_finding
from runner_compare.render.quantities import REPEATS, find_quantity
from runner_compare.render.row_records import row_effect_records
from runner_compare.render.short_table import format_verdict_cell, label_columns
from runner_compare.statistics import Finding
from runner_compare.statistics.pooling import PoolingWeights


def pooled_part(table: PooledTable) -> ReportPart:
    """Return the report part of a pooled table, with findings and legend."""
    what = "accuracy" if table.unit == "points" else "log-likelihood"
    title = f"{what} over {len(table.sets)} sets of questions"
    said = [
        said for row in table.rows for said in row_sentence_with_finding(row, pooled_sentence(row, table))
    ]
    return ReportPart(
        title,
        [TableGrid(pooled_columns(table))],
        said,
        [TableGrid(short_pooled_columns(table))],
        [],
        legend=pooled_legend(table),
        short_conclusion=conclusion_text(table.rows),
    )


def pooled_legend(table: PooledTable) -> str:
    """Explain the weights and the test of a pooled table."""
    counts = "question" if table.unit == "points" else table.unit.removeprefix("nats/")
    each = {
        PoolingWeights.questions: f"Every {counts} counts the same, so large sets count more",
        PoolingWeights.tasks: "Every set counts the same, however many questions it has",
    }[table.weights]
    explained = effects_legend([effect for row in table.rows for effect in row.effects])
    return f"Pooled over {', '.join(table.sets)}: the weighted mean of the differences. {each}. {explained}".strip()


def pooled_sentence(row: TableRow, table: PooledTable) -> str:
    """Return a sentence with the pooled finding on one setting."""
    if row.note is not None:
        return f"{format_assignments(row, table.keys) or row.run.job_id}: not pooled, {row.note}."
    return finding_sentence(row, table.keys).replace(" (n=", f" over {len(table.sets)} sets (n=", 1)


def pooled_columns(table: PooledTable) -> list[Column]:
    """Return the columns of a pooled table: setting, difference on each set, and pooled
    difference.
    """
    naming_table = Table("", table.keys, table.rows)
    difference, *test = effect_columns(table.rows, table.unit)
    return [
        *naming_columns(naming_table),
        *_question_set_columns(table),
        replace(difference, head=f"pooled\n{difference.head.replace(chr(10), ' ')}"),
        *test,
        Column(
            "finding",
            [finding_text(row.effect) if row.effect else "not pooled" for row in table.rows],
            False,
            use=ColumnUse.verdict,
        ),
    ]


def short_pooled_columns(table: PooledTable) -> list[Column]:
    """Return the columns for setting, difference on each set, pooled difference and verdict."""
    naming_table = Table("", table.keys, table.rows)
    values = [format_effect(row.effect) if row.effect else ABSENT for row in table.rows]
    return [
        *label_columns(naming_table),
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
    """Format the difference on one set of questions, with the finding on this set if there is one."""
    if row is None or row.effect is None:
        return ABSENT
    finding = "" if row.effect.finding is Finding.open else f" {row.effect.finding}"
    return f"{find_quantity(row.effect).write(row.effect.value)}{finding}"


def pooled_csv_lines(table: PooledTable) -> list[dict[str, Any]]:
    lines = []
    for row in table.rows:
        effects = [value for value in row_effect_records(row).values() if isinstance(value, dict)]
        effect = effects[0] if effects else {}
        ends = flatten_cut_off_record(effect.pop("without_limit", {}))
        sets = {"pooled_over": "; ".join(table.sets), "weights": table.weights.value, "note": row.note}
        lines.append({"task": "pooled", **row.config, **sets, **effect, **ends})
    return lines


def pooled_record(table: PooledTable) -> dict[str, Any]:
    """Return a pooled table as JSON data: each setting's pooled difference and difference per set."""
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
                **{key: value for key, value in row_effect_records(row).items() if key != REPEATS.record_key},
                "note": row.note,
            }
            for row in table.rows
        ],
        "sentences": [pooled_sentence(row, table) for row in table.rows],
    }
