"""How much longer each row thinks than its baseline, and what a right answer costs it."""

from __future__ import annotations

from typing import Any

from runner_base import Column
from runner_compare.features.thinking.compute import ThinkingOfRows, add_thinking, has_thinking
from runner_compare.features.thinking.render import (
    TITLE,
    right_answer_record,
    sentence,
    thinking_columns,
    thinking_record,
)
from runner_compare.model.data import Table, TableRow
from runner_compare.reader import Reader
from runner_compare.section import Section


class Thinking(Section):
    """How long rows think, and what a right answer costs."""

    def add(self, table: Table, reader: Reader) -> None:
        add_thinking(table, reader)

    def tables(self, table: Table) -> dict[str, list[Column]]:
        return {TITLE: thinking_columns(table)} if has_thinking(table) else {}

    def sentences(self, table: Table) -> list[str]:
        return [sentence(table)] if table.of(ThinkingOfRows).effects else []

    def row_record(self, table: Table, row: TableRow) -> dict[str, Any]:
        """Return a row's difference in thinking tokens, and what a right answer costs it."""
        record: dict[str, Any] = {}
        effect = table.of(ThinkingOfRows).effects.get(row.run.run_id)
        if effect is not None:
            record["thinking"] = thinking_record(effect)
        if has_thinking(table):
            record["right_answer_costs"] = right_answer_record(table, row)
        return record


SECTION = Thinking()
