"""Show the Pareto front of accuracy, memory, speed and energy, with its rule."""

from __future__ import annotations

from runner_base import Column
from runner_compare.features.front.compute import FrontData
from runner_compare.features.front.render import (
    HOW,
    dominance_rule,
    dominated_sentence,
    front_columns,
    front_sentences,
)
from runner_compare.model.data import Table
from runner_compare.section import ColumnSlot, Section


class FrontSection(Section):
    """Section with the Pareto front."""

    def columns(self, table: Table) -> dict[ColumnSlot, list[Column]]:
        return {ColumnSlot.last: front_columns(table)} if table.get_section_data(FrontData).axes else {}

    def sentences(self, table: Table) -> list[str]:
        return [*filter(None, [dominated_sentence(table)]), *front_sentences(table)]

    def legend(self, table: Table, explain: bool) -> str:
        if not table.get_section_data(FrontData).axes:
            return ""
        return dominance_rule(table) if explain else HOW


SECTION = FrontSection()
