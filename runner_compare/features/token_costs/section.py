"""What the answers of a run cost in tokens, read from its samples: for each row, with intervals,
and its columns."""

from __future__ import annotations

from typing import Any

from runner_base import Column, Picture
from runner_compare.features.token_costs.compute import CostsOfRows, add_token_costs
from runner_compare.features.token_costs.render import correct_per_1000_cell, cost_record, token_pictures
from runner_compare.model.data import Table, TableRow
from runner_compare.reader import Reader
from runner_compare.section import Section, Slot


class TokenCosts(Section):
    """What the answers of teams cost in tokens."""

    def add(self, table: Table, reader: Reader) -> None:
        add_token_costs(table, reader)

    def columns(self, table: Table) -> dict[Slot, list[Column]]:
        """Return how many right answers each row has for its tokens."""
        costs = table.of(CostsOfRows).of_rows
        if not costs:
            return {}
        cells = [correct_per_1000_cell(costs.get(row.run.run_id)) for row in table.rows]
        return {Slot.comparison: [Column("correct per\n1,000 tokens", cells)]}

    def row_record(self, table: Table, row: TableRow) -> dict[str, Any]:
        """Return a row's costs."""
        cost = table.of(CostsOfRows).of_rows.get(row.run.run_id)
        return {"tokens": cost_record(cost)} if cost else {}

    def figures(self, table: Table) -> list[Picture]:
        """Return the picture of accuracy over tokens."""
        costs = table.of(CostsOfRows).of_rows
        return token_pictures(table, {run_id: cost.tokens_a_question for run_id, cost in costs.items()})


SECTION = TokenCosts()
