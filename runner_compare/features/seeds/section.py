"""How far the seeds of a row are apart, with --seeds: a table of spreads, and the figures of each
seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from runner_base import Column, Use
from runner_compare.features.seeds.compute import EDGES, SEED, rows_with_seeds
from runner_compare.features.seeds.seed_tests import accuracies
from runner_compare.metrics import OF_QUESTION
from runner_compare.model.data import ABSENT, Run, Table, TableRow
from runner_compare.render.labels import assignments
from runner_compare.section import Section

TITLE = "how far seeds are apart"


class Seeds(Section):
    """Rows that stand for several seeds."""

    def tables(self, table: Table) -> dict[str, list[Column]]:
        """Return the table of spreads by its title."""
        return {TITLE: seed_columns(table)} if rows_with_seeds(table) else {}

    def row_record(self, table: Table, row: TableRow) -> dict[str, Any]:
        """Return the figures of each seed."""
        return {"seeds": seed_records(row.run)} if row.run.over_seeds else {}

    def sheet(self, table: Table, row: TableRow) -> dict[str, Any]:
        """Return nothing: the lines of CSV are rows, and not seeds."""
        return {}


@dataclass(frozen=True)
class Spread:
    """How far the values of several seeds are apart."""

    mean: float
    deviation: float  # the standard deviation of the seeds' values
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Compute it from one value for each of at least two seeds."""
        return cls(fmean(values), stdev(values), min(values), max(values))


def spreads(run: Run) -> dict[str, Spread]:
    """Return how far the seeds are apart in accuracy, in tokens a question and in edges, as far as
    these are known."""
    found = {"accuracy": Spread.of(accuracies(run))}
    if all(part.metrics.keys() >= set(OF_QUESTION) for part in run.parts):
        found["tokens_a_question"] = Spread.of(
            [sum(part.metrics[key] for key in OF_QUESTION) for part in run.parts]
        )
    for key in EDGES:
        if all(key in part.metrics for part in run.parts):
            found[key] = Spread.of([part.metrics[key] for part in run.parts])
    return found


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


SECTION = Seeds()
