"""The Pareto front of accuracy, memory, speed and energy: which rows are on it, and the rule."""

from __future__ import annotations

from runner_base import Column
from runner_compare.features.front.compute import Front
from runner_compare.features.front.render import HOW, dominated, front_columns, front_rule, front_sentences
from runner_compare.model.data import Table
from runner_compare.section import Section, Slot


class FrontSection(Section):
    """The Pareto front."""

    def columns(self, table: Table) -> dict[Slot, list[Column]]:
        return {Slot.last: front_columns(table)} if table.of(Front).axes else {}

    def sentences(self, table: Table) -> list[str]:
        return [*filter(None, [dominated(table)]), *front_sentences(table)]

    def legend(self, table: Table, explain: bool) -> str:
        """Return the rule by which rows are dominated."""
        if not table.of(Front).axes:
            return ""
        return front_rule(table) if explain else HOW


SECTION = FrontSection()
