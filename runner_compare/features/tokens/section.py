"""What a comparison shows of single tokens: percentiles of divergence, llama.cpp's block, the worst
in context."""

from __future__ import annotations

from runner_base import Column, Picture
from runner_compare.features.tokens.render.divergence_picture import divergence_pictures
from runner_compare.features.tokens.render.tables import LEGEND, token_tables, worst_of, worst_tokens
from runner_compare.model.data import Table
from runner_compare.reader import Reader
from runner_compare.section import Section


class Tokens(Section):
    """The divergence from a reference, token by token."""

    def tables(self, table: Table) -> dict[str, list[Column]]:
        return token_tables(table)

    def legend(self, table: Table, explain: bool) -> str:
        return LEGEND if table.unit == "token" and any(row.effect for row in table.rows) else ""

    def figures(self, table: Table) -> list[Picture]:
        return divergence_pictures(table)

    def page(self, table: Table, reader: Reader) -> str:
        return "".join(worst_tokens(of_run) for of_run in worst_of(table, reader))


SECTION = Tokens()
