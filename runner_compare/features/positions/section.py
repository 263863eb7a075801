"""Report section with loss and KL divergence by token position in the context window."""

from __future__ import annotations

from runner_base import Column, Picture
from runner_compare.features.positions.render import (
    AXIS,
    build_loss_by_position_tables,
    create_loss_curve_pictures,
)
from runner_compare.model.data import Table
from runner_compare.section import Section
from runner_compare.statistics.position_loss import CELL, list_bin_positions


class Positions(Section):
    """Report section with the loss by token position."""

    def tables(self, table: Table) -> dict[str, list[Column]]:
        return build_loss_by_position_tables(table)

    def short_tables(self, table: Table) -> dict[str, list[Column]]:
        return {}

    def pictures(self, table: Table) -> list[Picture]:
        return create_loss_curve_pictures(table, "positions", f"/{CELL}", list_bin_positions, AXIS)


SECTION = Positions()
