"""Loss and divergence by position: how many tokens stand before a token in its window."""

from __future__ import annotations

from runner_base import Column, Picture, Use
from runner_compare.features.positions.pictures import loss_picture
from runner_compare.metrics.likelihoods import KL, LOSS
from runner_compare.model.data import ABSENT, Run, Table
from runner_compare.render.columns import naming_at
from runner_compare.section import Section
from runner_compare.statistics import figure_in_words
from runner_compare.statistics.positions import CELL, positions_of, range_of

TITLE = "by position: how many tokens stand before, with 95 % intervals over texts"


class Positions(Section):
    """The loss by position."""

    def tables(self, table: Table) -> dict[str, list[Column]]:
        """Return the table of positions: a line for each bin of a row."""
        lines = [(at, first) for at, row in enumerate(table.rows) for first in positions_of(row.run.metrics)]
        if not lines:
            return {}
        named = naming_at(table, [at for at, _ in lines])
        named.append(Column("tokens before", [range_of(first) for _, first in lines], use=Use.setting))
        texts = [f"{table.rows[at].run.metrics[f'n/{CELL}{first}']:,.0f}" for at, first in lines]
        named.append(Column("texts", texts, use=Use.more))
        for head, key, form in (("loss\nnats/token", LOSS, "{:.4f}"), ("KL\nnats/token", KL, "{:.3g}")):
            cells = [_cell(table.rows[at].run, key, form, first) for at, first in lines]
            if any(cell != ABSENT for cell in cells):
                named.append(Column(head, cells, use=Use.result))
        return {TITLE: named}

    def figures(self, table: Table) -> list[Picture]:
        """Return the picture of the loss over the position."""
        return loss_picture(
            table, "positions", f"/{CELL}", positions_of, "tokens before, in bins of powers of two"
        )


def _cell(run: Run, key: str, form: str, first: int) -> str:
    return figure_in_words(run.metrics, key, form.format, "", f"/{CELL}{first}") or ABSENT


SECTION = Positions()
