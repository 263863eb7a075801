"""How far the seeds of a row are apart, as a table and as plain data."""

from __future__ import annotations

from typing import Any

from runner_base import Column, Use
from runner_compare.features.seeds.compute import EDGES, SEED, Spread, rows_with_seeds, spreads
from runner_compare.features.seeds.seed_tests import accuracies
from runner_compare.metrics import OF_QUESTION
from runner_compare.model.data import ABSENT, Run, Table
from runner_compare.render.labels import assignments

TITLE = "how far seeds are apart"


def seed_columns(table: Table) -> list[Column]:
    """Return the columns of the table of spreads: a line for each row that stands for several
    seeds."""
    rows = rows_with_seeds(table)
    found = [spreads(row.run) for row in rows]
    heads = {"accuracy": "accuracy of a seed, %", "tokens_a_question": "tokens a question"}
    heads |= {key: f"{key.partition('_')[0]} edges left" for key in EDGES}
    columns = [
        Column(
            "over seeds", [assignments(row, table.keys) or ABSENT for row in rows], False, use=Use.setting
        ),
        Column(
            "seeds",
            [", ".join(str(part.value(SEED)) for part in row.run.parts) for row in rows],
            False,
            use=Use.result,
        ),
    ]
    for key, head in heads.items():
        factor, form = (100, ".1f") if key == "accuracy" else (1, ",.1f")
        if any(key in of_row for of_row in found):
            cells = [_written(of_row.get(key), factor, form) for of_row in found]
            columns.append(Column(f"{head}\nmean ± SD (least–most)", cells, use=Use.result))
    return columns


def _written(spread: Spread | None, factor: float, form: str) -> str:
    if spread is None:
        return ABSENT
    values = spread.mean, spread.deviation, spread.least, spread.most
    return "{} ± {} ({}–{})".format(*(format(factor * value, form) for value in values))


def seed_records(run: Run) -> list[dict[str, Any]]:
    """Return the figures of each seed as plain data."""
    records = []
    for part, accuracy in zip(run.parts, accuracies(run), strict=True):
        tokens = None
        if part.metrics.keys() >= set(OF_QUESTION):
            tokens = sum(part.metrics[key] for key in OF_QUESTION)
        records.append(
            {
                "seed": part.value(SEED),
                "job_id": part.job_id,
                "accuracy": accuracy,
                "tokens_a_question": tokens,
                **{key: part.metrics.get(key) for key in EDGES},
            }
        )
    return records
