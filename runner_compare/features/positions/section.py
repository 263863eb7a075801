"""Loss and divergence by position: how many tokens stand before a token in its window."""

from __future__ import annotations

from runner_base import Column, Picture
from runner_compare.features.positions.render import AXIS, loss_picture, position_tables
from runner_compare.model.data import Table
from runner_compare.section import Section
from runner_compare.statistics.positions import CELL, positions_of


class Positions(Section):
    """The loss by position."""

    def tables(self, table: Table) -> dict[str, list[Column]]:
        return position_tables(table)

    def figures(self, table: Table) -> list[Picture]:
        return loss_picture(table, "positions", f"/{CELL}", positions_of, AXIS)


SECTION = Positions()
