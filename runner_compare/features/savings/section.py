"""Report section: tokens that a smaller agent team saves, and what that costs in accuracy."""

from __future__ import annotations

from typing import Any

from runner_compare.features.savings.compute import TableSavings, compare_token_use_with_baselines
from runner_compare.features.savings.render import (
    build_saving_record,
    format_saving_sentence,
    format_short_token_saving_sentence,
)
from runner_compare.features.token_costs.compute import TableTokenCosts
from runner_compare.model.data import Table, TableRow
from runner_compare.reader import Reader
from runner_compare.section import Section


class Savings(Section):
    """Report section with the token savings of agent teams."""

    def compute(self, table: Table, reader: Reader) -> None:
        compare_token_use_with_baselines(table, table.get_section_data(TableTokenCosts).of_questions)

    def row_sentences(self, table: Table, row: TableRow) -> list[str]:
        saving = table.get_section_data(TableSavings).of_rows.get(row.run.run_id)
        return [format_saving_sentence(row, saving, table.keys)] if saving else []

    def short_sentences(self, table: Table) -> list[str]:
        kept = table.get_section_data(TableSavings).of_rows
        rows = [row for row in table.rows if row.run.run_id in kept]
        return [format_short_token_saving_sentence(row, kept[row.run.run_id], table.keys) for row in rows]

    def row_record(self, table: Table, row: TableRow) -> dict[str, Any]:
        saving = table.get_section_data(TableSavings).of_rows.get(row.run.run_id)
        return {"saved": build_saving_record(row, saving)} if saving else {}


SECTION = Savings()
