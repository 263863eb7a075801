"""Renders the variation between seeds as a table and JSON data."""

from __future__ import annotations

from typing import Any

from runner_base import Column, ColumnUse
from runner_compare.features.seeds.compute import (
    EDGES,
    SEED,
    SeedSpread,
    compute_seed_spreads,
    rows_with_seeds,
)
from runner_compare.features.seeds.seed_tests import compute_seed_accuracies
from runner_compare.metrics import OF_QUESTION
from runner_compare.model.data import ABSENT, Run, Table
from runner_compare.render.labels import format_assignments

TITLE = "how far seeds are apart"


def build_seed_columns(table: Table) -> list[Column]:
    rows = rows_with_seeds(table)
    found = [compute_seed_spreads(row.run) for row in rows]
    heads = {"accuracy": "accuracy of a seed, %", "tokens_a_question": "tokens a question"}
    heads |= {key: f"{key.partition('_')[0]} edges left" for key in EDGES}
    columns = [
        Column(
            "over seeds",
            [format_assignments(row, table.keys) or ABSENT for row in rows],
            False,
            use=ColumnUse.setting,
        ),
        Column(
            "seeds",
            [", ".join(str(part.get_value(SEED)) for part in row.run.parts) for row in rows],
            False,
            use=ColumnUse.result,
        ),
    ]
    for key, head in heads.items():
        factor, form = (100, ".1f") if key == "accuracy" else (1, ",.1f")
        if any(key in of_row for of_row in found):
            cells = [_format_seed_spread(of_row.get(key), factor, form) for of_row in found]
            columns.append(Column(f"{head}\nmean ± SD (least–most)", cells, use=ColumnUse.result))
    return columns


def _format_seed_spread(spread: SeedSpread | None, factor: float, number_format: str) -> str:
    if spread is None:
        return ABSENT
    values = spread.mean, spread.deviation, spread.least, spread.most
    return "{} ± {} ({}–{})".format(*(format(factor * value, number_format) for value in values))


def build_per_seed_records(run: Run) -> list[dict[str, Any]]:
    records = []
    for part, accuracy in zip(run.parts, compute_seed_accuracies(run), strict=True):
        tokens = None
        if part.metrics.keys() >= set(OF_QUESTION):
            tokens = sum(part.metrics[key] for key in OF_QUESTION)
        records.append(
            {
                "seed": part.get_value(SEED),
                "job_id": part.job_id,
                "accuracy": accuracy,
                "tokens_a_question": tokens,
                **{key: part.metrics.get(key) for key in EDGES},
            }
        )
    return records
