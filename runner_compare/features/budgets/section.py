"""Report section that compares accuracy at equal token counts, for several thinking budgets."""

from __future__ import annotations

from typing import Any

from runner_base import Picture
from runner_compare.features.budgets.compute import TableBudgetData, compare_settings_at_equal_tokens
from runner_compare.features.budgets.render import (
    create_thinking_budget_pictures,
    equal_tokens_record,
    format_equal_token_comparison,
    format_equal_tokens_comparison_line,
)
from runner_compare.model.data import Table
from runner_compare.reader import Reader
from runner_compare.section import Section


class Budgets(Section):
    """Report section about configurations that ran with several thinking budgets."""

    def compute(self, table: Table, reader: Reader) -> None:
        compare_settings_at_equal_tokens(table, reader)

    def sentences(self, table: Table) -> list[str]:
        return [
            format_equal_token_comparison(*compared)
            for compared in table.get_section_data(TableBudgetData).compared
        ]

    def short_sentences(self, table: Table) -> list[str]:
        return [
            format_equal_tokens_comparison_line(*compared)
            for compared in table.get_section_data(TableBudgetData).compared
        ]

    def table_record(self, table: Table) -> dict[str, Any]:
        records = [
            equal_tokens_record(curves) for *_, curves in table.get_section_data(TableBudgetData).compared
        ]
        return {"equal_tokens": records} if records else {}

    def pictures(self, table: Table) -> list[Picture]:
        return create_thinking_budget_pictures(table)


SECTION = Budgets()
