"""Report section with the token costs of answers and their confidence intervals."""

from __future__ import annotations

from typing import Any

from runner_base import Column, Picture
from runner_compare.features.token_costs.compute import TableTokenCosts, add_team_token_costs
from runner_compare.features.token_costs.render import (
    build_token_cost_record,
    create_accuracy_by_tokens_pictures,
    format_correct_per_1000_tokens,
)
from runner_compare.model.data import Table, TableRow
from runner_compare.reader import Reader
from runner_compare.section import ColumnSlot, Section


class TokenCosts(Section):
    """Report section with the token costs of agent teams."""

    def compute(self, table: Table, reader: Reader) -> None:
        add_team_token_costs(table, reader)

    def columns(self, table: Table) -> dict[ColumnSlot, list[Column]]:
        costs = table.get_section_data(TableTokenCosts).of_rows
        if not costs:
            return {}
        cells = [format_correct_per_1000_tokens(costs.get(row.run.run_id)) for row in table.rows]
        return {ColumnSlot.comparison: [Column("correct per\n1,000 tokens", cells)]}

    def row_record(self, table: Table, row: TableRow) -> dict[str, Any]:
        cost = table.get_section_data(TableTokenCosts).of_rows.get(row.run.run_id)
        return {"tokens": build_token_cost_record(cost)} if cost else {}

    def pictures(self, table: Table) -> list[Picture]:
        costs = table.get_section_data(TableTokenCosts).of_rows
        return create_accuracy_by_tokens_pictures(
            table, {run_id: cost.tokens_a_question for run_id, cost in costs.items()}
        )


SECTION = TokenCosts()
