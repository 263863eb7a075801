"""Report section that compares the loss of the same tokens at several context lengths."""

from __future__ import annotations

from typing import Any

from runner_base import Column, Picture
from runner_compare.features.contexts.compute import TableContextEffects, compare_losses_by_context_length
from runner_compare.features.contexts.render import (
    AXIS,
    LEGEND,
    build_context_length_tables,
    format_longer_context_gain_sentence,
)
from runner_compare.features.positions.render import create_loss_curve_pictures
from runner_compare.model.data import NotPaired, Table, TableRow
from runner_compare.reader import Reader
from runner_compare.render.labels import format_row_name
from runner_compare.section import Section
from runner_compare.statistics.context_gains import CELL, list_context_lengths


class Contexts(Section):
    """Report section about the loss of the same tokens at several context lengths."""

    def compute(self, table: Table, reader: Reader) -> None:
        effects = table.get_section_data(TableContextEffects).effects
        for row in table.rows:
            if row.baseline is None or not row.effect or not list_context_lengths(row.run.metrics):
                continue
            try:
                effects |= compare_losses_by_context_length(row.run, row.baseline.run, reader)
            except NotPaired:  # the row says why
                continue

    def tables(self, table: Table) -> dict[str, list[Column]]:
        return build_context_length_tables(table)

    def sentences(self, table: Table) -> list[str]:
        said = [(row, format_longer_context_gain_sentence(row.run.metrics)) for row in table.rows]
        return [f"{format_row_name(row, table.keys)}: {sentence}" for row, sentence in said if sentence]

    def short_tables(self, table: Table) -> dict[str, list[Column]]:
        return {}

    def legend(self, table: Table, explain: bool) -> str:
        return LEGEND if any(list_context_lengths(row.run.metrics) for row in table.rows) else ""

    def row_record(self, table: Table, row: TableRow) -> dict[str, Any]:
        records = [
            {
                "context": length,
                "loss_difference": -effect.value,
                "loss_difference_low": -effect.high,
                "loss_difference_high": -effect.low,
            }
            for (run_id, length), effect in table.get_section_data(TableContextEffects).effects.items()
            if run_id == row.run.run_id
        ]
        return {"contexts": records} if records else {}

    def csv_fields(self, table: Table, row: TableRow) -> dict[str, Any]:
        effects = table.get_section_data(TableContextEffects).effects
        return {
            f"loss_difference_context_{length}": -effect.value
            for (run_id, length), effect in effects.items()
            if run_id == row.run.run_id
        }

    def pictures(self, table: Table) -> list[Picture]:
        return create_loss_curve_pictures(table, "contexts", f"/{CELL}", list_context_lengths, AXIS)


SECTION = Contexts()
