"""Up to how much context the same tokens become more likely: each row's contexts, and each against
the baseline's."""

from __future__ import annotations

from typing import Any

from runner_base import Column, Picture
from runner_compare.features.contexts.compute import ContextsOfTable, against_baseline
from runner_compare.features.contexts.render import AXIS, LEGEND, context_sentence, context_tables
from runner_compare.features.positions.render import loss_picture
from runner_compare.model.data import NotPaired, Table, TableRow
from runner_compare.reader import Reader
from runner_compare.render.labels import name_of
from runner_compare.section import Section
from runner_compare.statistics.contexts import CELL, contexts_of


class Contexts(Section):
    """The loss of the same tokens after several contexts."""

    def add(self, table: Table, reader: Reader) -> None:
        """Compare each row with its baseline at the contexts that both have."""
        effects = table.of(ContextsOfTable).effects
        for row in table.rows:
            if row.baseline is None or not row.effect or not contexts_of(row.run.metrics):
                continue
            try:
                effects |= against_baseline(row.run, row.baseline.run, reader)
            except NotPaired:  # the row says why
                continue

    def tables(self, table: Table) -> dict[str, list[Column]]:
        return context_tables(table)

    def sentences(self, table: Table) -> list[str]:
        """Return up to how much context each row is helped."""
        said = [(row, context_sentence(row.run.metrics)) for row in table.rows]
        return [f"{name_of(row, table.keys)}: {sentence}" for row, sentence in said if sentence]

    def legend(self, table: Table, explain: bool) -> str:
        return LEGEND if any(contexts_of(row.run.metrics) for row in table.rows) else ""

    def row_record(self, table: Table, row: TableRow) -> dict[str, Any]:
        """Return a row's differences to its baseline by context."""
        records = [
            {
                "context": length,
                "loss_difference": -effect.value,
                "loss_difference_low": -effect.high,
                "loss_difference_high": -effect.low,
            }
            for (run_id, length), effect in table.of(ContextsOfTable).effects.items()
            if run_id == row.run.run_id
        ]
        return {"contexts": records} if records else {}

    def sheet(self, table: Table, row: TableRow) -> dict[str, Any]:
        """Return the differences of a row in CSV, by context."""
        effects = table.of(ContextsOfTable).effects
        return {
            f"loss_difference_context_{length}": -effect.value
            for (run_id, length), effect in effects.items()
            if run_id == row.run.run_id
        }

    def figures(self, table: Table) -> list[Picture]:
        return loss_picture(table, "contexts", f"/{CELL}", contexts_of, AXIS)


SECTION = Contexts()
