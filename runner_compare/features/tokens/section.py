"""Report section with statistics per token, and the tokens with the largest KL divergence."""

from __future__ import annotations

from runner_base import Column, Picture
from runner_compare.features.tokens.render.divergence_picture import create_divergence_pictures
from runner_compare.features.tokens.render.tables import (
    LEGEND,
    build_token_divergence_tables,
    collect_most_divergent_tokens,
    render_worst_tokens_as_html,
)
from runner_compare.model.data import Table
from runner_compare.reader import Reader
from runner_compare.section import Section


class Tokens(Section):
    """Report section with the divergence of each token from a reference model."""

    def tables(self, table: Table) -> dict[str, list[Column]]:
        return build_token_divergence_tables(table)

    def short_tables(self, table: Table) -> dict[str, list[Column]]:
        return {}

    def legend(self, table: Table, explain: bool) -> str:
        return LEGEND if table.likelihood_unit == "token" and any(row.effect for row in table.rows) else ""

    def pictures(self, table: Table) -> list[Picture]:
        return create_divergence_pictures(table)

    def render_html(self, table: Table, reader: Reader) -> str:
        return "".join(
            render_worst_tokens_as_html(of_run) for of_run in collect_most_divergent_tokens(table, reader)
        )


SECTION = Tokens()
