"""Settings that were asked the same questions at several budgets of thinking, compared at equal
tokens."""

from __future__ import annotations

from typing import Any

from runner_base import Picture
from runner_compare.features.budgets.compute import EqualTokensOfTable, add_equal_tokens
from runner_compare.features.budgets.render import budget_pictures, equal_tokens_record, equal_tokens_sentence
from runner_compare.model.data import Table
from runner_compare.reader import Reader
from runner_compare.section import Section


class Budgets(Section):
    """Settings with several budgets of thinking."""

    def add(self, table: Table, reader: Reader) -> None:
        add_equal_tokens(table, reader)

    def sentences(self, table: Table) -> list[str]:
        return [equal_tokens_sentence(*compared) for compared in table.of(EqualTokensOfTable).compared]

    def record(self, table: Table) -> dict[str, Any]:
        """Return the comparisons as plain data."""
        records = [equal_tokens_record(curves) for *_, curves in table.of(EqualTokensOfTable).compared]
        return {"equal_tokens": records} if records else {}

    def figures(self, table: Table) -> list[Picture]:
        return budget_pictures(table)


SECTION = Budgets()
