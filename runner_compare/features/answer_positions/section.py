"""Report section with loss and KL divergence by generated position."""

from __future__ import annotations

from typing import Any

from runner_base import Column, Picture
from runner_compare.features.answer_positions.compute import TableGrowth, compute_kl_growth_by_position
from runner_compare.features.answer_positions.render import (
    AXIS,
    LEGEND,
    build_answer_position_tables,
    build_divergence_by_position_tables,
    format_kl_growth_sentences,
    growth_record,
)
from runner_compare.features.positions.render import create_loss_curve_pictures
from runner_compare.model.data import Table, TableRow
from runner_compare.reader import Reader
from runner_compare.section import Section
from runner_compare.statistics.answer_positions import CELL, list_generated_positions


class AnswerPositions(Section):
    """Report section about the divergence of recorded answers by generated position."""

    def compute(self, table: Table, reader: Reader) -> None:
        compute_kl_growth_by_position(table, reader)

    def tables(self, table: Table) -> dict[str, list[Column]]:
        return build_answer_position_tables(table)

    def short_tables(self, table: Table) -> dict[str, list[Column]]:
        return build_divergence_by_position_tables(table)

    def sentences(self, table: Table) -> list[str]:
        return format_kl_growth_sentences(table)

    def short_sentences(self, table: Table) -> list[str]:
        return format_kl_growth_sentences(table, is_short=True)

    def legend(self, table: Table, explain: bool) -> str:
        return LEGEND if table.get_section_data(TableGrowth).by_run else ""

    def row_record(self, table: Table, row: TableRow) -> dict[str, Any]:
        growth = table.get_section_data(TableGrowth).by_run.get(row.run.run_id)
        return {} if growth is None else {"answer_positions": growth_record(growth)}

    def csv_fields(self, table: Table, row: TableRow) -> dict[str, Any]:
        growth = table.get_section_data(TableGrowth).by_run.get(row.run.run_id)
        return {} if growth is None else {"kl_larger_from_token": growth.first_position}

    def pictures(self, table: Table) -> list[Picture]:
        return create_loss_curve_pictures(
            table, "answer_positions", f"/{CELL}", list_generated_positions, AXIS
        )


SECTION = AnswerPositions()
