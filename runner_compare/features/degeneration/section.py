"""Report section about answers that degenerated."""

from __future__ import annotations

from typing import Any

from runner_base import Column, Picture
from runner_compare.features.degeneration.compute import (
    TableDegeneration,
    compare_degeneration_with_baselines,
    find_loop_starts_in_answers,
)
from runner_compare.features.degeneration.render.pictures import create_repetition_loop_pictures
from runner_compare.features.degeneration.render.sentences import (
    build_median_loop_start_column,
    degeneration_record,
    format_degeneration_sentences,
)
from runner_compare.model.data import Table, TableRow
from runner_compare.reader import Reader
from runner_compare.section import ColumnSlot, Section


class DegenerationSection(Section):
    """Report section that compares the shares of degenerate answers."""

    def compute(self, table: Table, reader: Reader) -> None:
        compare_degeneration_with_baselines(table, reader)
        find_loop_starts_in_answers(table, reader)

    def columns(self, table: Table) -> dict[ColumnSlot, list[Column]]:
        column = build_median_loop_start_column(table)
        return {} if column is None else {ColumnSlot.comparison: [column]}

    def sentences(self, table: Table) -> list[str]:
        return format_degeneration_sentences(table)

    def short_sentences(self, table: Table) -> list[str]:
        return format_degeneration_sentences(table, is_short=True)

    def row_record(self, table: Table, row: TableRow) -> dict[str, Any]:
        decision = table.get_section_data(TableDegeneration).effects.get(row.run.run_id)
        return {} if decision is None else {"degeneration": degeneration_record(decision)}

    def pictures(self, table: Table) -> list[Picture]:
        return create_repetition_loop_pictures(table)


SECTION = DegenerationSection()
