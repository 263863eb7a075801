"""The verdicts over several tasks as a table, in words and as plain data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from runner_base import Column, Use
from runner_compare.features.cut_offs.render import finding_of, flat_ends
from runner_compare.features.pooled.compute import PooledTable
from runner_compare.model.comparison import Grid, Shown
from runner_compare.model.data import ABSENT, Table, TableRow
from runner_compare.render.columns import effect_columns, naming
from runner_compare.render.effects import legend
from runner_compare.render.findings import sentence
from runner_compare.render.labels import assignments
from runner_compare.render.parts import said_of_row
from runner_compare.render.quantities import REPEATS, quantity
from runner_compare.render.row_records import effect_records
from runner_compare.statistics import Finding
from runner_compare.statistics.pooling import Weights


def pooled_shown(table: PooledTable) -> Shown:
    """Return a pooled table with its findings and its legend."""
    what = "accuracy" if table.unit == "points" else "log-likelihood"
    title = f"{what} over {len(table.sets)} sets of questions"
    said = [said for row in table.rows for said in said_of_row(row, pooled_sentence(row, table))]
    return Shown(title, [Grid(pooled_columns(table))], said, pooled_legend(table))


def pooled_legend(table: PooledTable) -> str:
    """Return the weights, and the words for the test."""
    counts = "question" if table.unit == "points" else table.unit.removeprefix("nats/")
    each = {
        Weights.questions: f"every {counts} counts the same, so large sets count more",
        Weights.tasks: "every set counts the same, however many questions it has",
    }[table.weights]
    explained = legend([effect for row in table.rows for effect in row.effects])
    return f"Pooled over {', '.join(table.sets)}: the weighted mean of the differences; {each}. {explained}".strip()


def pooled_sentence(row: TableRow, table: PooledTable) -> str:
    """Return the finding about one setting."""
    if row.note is not None:
        return f"{assignments(row, table.keys) or row.run.job_id}: not pooled, {row.note}"
    return sentence(row, table.keys).replace(" (n=", f" over {len(table.sets)} sets (n=", 1)


def pooled_columns(table: PooledTable) -> list[Column]:
    """Return the columns of a pooled table: the setting, its difference on each set, and the pooled
    one."""
    naming_table = Table("", table.keys, table.rows)
    in_sets = [
        Column(name, [_cell(table.cells[row.run.job_id][number]) for row in table.rows], use=Use.difference)
        for number, name in enumerate(table.sets)
    ]
    difference, *test = effect_columns(table.rows, table.unit)
    return [
        *naming(naming_table),
        *in_sets,
        replace(difference, head=f"pooled\n{difference.head.replace(chr(10), ' ')}"),
        *test,
        Column(
            "finding",
            [finding_of(row.effect) if row.effect else "not pooled" for row in table.rows],
            False,
            use=Use.verdict,
        ),
    ]


def _cell(row: TableRow | None) -> str:
    """Return the difference on one set, with its own finding if it has one."""
    if row is None or row.effect is None:
        return ABSENT
    finding = "" if row.effect.finding is Finding.open else f" {row.effect.finding}"
    return f"{quantity(row.effect).write(row.effect.value)}{finding}"


def pooled_lines(table: PooledTable) -> list[dict[str, Any]]:
    lines = []
    for row in table.rows:
        effects = [value for value in effect_records(row).values() if isinstance(value, dict)]
        effect = effects[0] if effects else {}
        ends = flat_ends(effect.pop("without_limit", {}))
        sets = {"pooled_over": "; ".join(table.sets), "weights": table.weights.value, "note": row.note}
        lines.append({"task": "pooled", **row.config, **sets, **effect, **ends})
    return lines


def pooled_record(table: PooledTable) -> dict[str, Any]:
    """Return a pooled table as plain data: for each setting the difference on each set, and the
    pooled one."""
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
                **{key: value for key, value in effect_records(row).items() if key != REPEATS.record_key},
                "note": row.note,
            }
            for row in table.rows
        ],
        "sentences": [pooled_sentence(row, table) for row in table.rows],
    }
