"""Report section about thinking tokens and the cost per correct answer."""

from __future__ import annotations

from typing import Any

from runner_base import Column
from runner_compare.features.thinking.compute import (
    TableThinking,
    compare_thinking_tokens,
    should_show_thinking,
)
from runner_compare.features.thinking.render import (
    TITLE,
    build_row_cost_record,
    build_thinking_columns,
    format_thinking_length_sentences,
    format_thinking_token_sentence,
    thinking_record,
)
from runner_compare.model.data import Table, TableRow
from runner_compare.reader import Reader
from runner_compare.section import Section


class Thinking(Section):
    """Report section about thinking tokens and the cost per correct answer."""

    def compute(self, table: Table, reader: Reader) -> None:
        compare_thinking_tokens(table, reader)

    def tables(self, table: Table) -> dict[str, list[Column]]:
        return {TITLE: build_thinking_columns(table)} if should_show_thinking(table) else {}

    def sentences(self, table: Table) -> list[str]:
        return (
            [format_thinking_token_sentence(table)] if table.get_section_data(TableThinking).effects else []
        )

    def short_tables(self, table: Table) -> dict[str, list[Column]]:
        return {}

    def short_sentences(self, table: Table) -> list[str]:
        return format_thinking_length_sentences(table)

    def row_record(self, table: Table, row: TableRow) -> dict[str, Any]:
        record: dict[str, Any] = {}
        effect = table.get_section_data(TableThinking).effects.get(row.run.run_id)
        if effect is not None:
            record["thinking"] = thinking_record(effect)
        if should_show_thinking(table):
            record["right_answer_costs"] = build_row_cost_record(table, row)
        return record


SECTION = Thinking()
