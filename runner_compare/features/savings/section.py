"""What a team saves of the tokens of a named graph, question by question, with the difference in
accuracy beside it."""

from __future__ import annotations

from typing import Any

from runner_compare.features.savings.compute import SavingsOfRows, add_savings
from runner_compare.features.savings.render import saving_record, saving_sentence
from runner_compare.features.token_costs.compute import CostsOfRows
from runner_compare.model.data import Table, TableRow
from runner_compare.reader import Reader
from runner_compare.section import Section


class Savings(Section):
    """What teams save of their baselines' tokens."""

    def add(self, table: Table, reader: Reader) -> None:
        add_savings(table, table.of(CostsOfRows).of_questions)

    def row_sentences(self, table: Table, row: TableRow) -> list[str]:
        """Return what a row saves, in words."""
        saving = table.of(SavingsOfRows).of_rows.get(row.run.run_id)
        return [saving_sentence(row, saving, table.keys)] if saving else []

    def row_record(self, table: Table, row: TableRow) -> dict[str, Any]:
        saving = table.of(SavingsOfRows).of_rows.get(row.run.run_id)
        return {"saved": saving_record(row, saving)} if saving else {}


SECTION = Savings()
