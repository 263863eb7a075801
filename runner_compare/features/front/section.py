"""The Pareto front of accuracy, memory, speed and energy: which rows are on it, and the rule."""

from __future__ import annotations

from runner_base import Column, Use
from runner_compare.features.front.compute import Front
from runner_compare.features.front.render import dominated, front_rule, front_sentences, left_out_axes
from runner_compare.model.data import Table, TableRow
from runner_compare.reader import Reader
from runner_compare.section import Section, Slot

HOW = "How the Pareto front is found: --explain."


class FrontSection(Section):
    """The Pareto front."""

    def add(self, table: Table, reader: Reader) -> None:
        """Word which rows are dominated."""
        table.of(Front).dominated = dominated(table)

    def columns(self, table: Table) -> dict[Slot, list[Column]]:
        """Return which rows are on the front."""
        front = table.of(Front)
        if not front.axes:
            return {}
        left_out = left_out_axes(front)
        head = f"Pareto\nwithout {left_out}" if left_out else "Pareto"
        return {Slot.last: [Column(head, list(map(_place, table.rows)), False, use=Use.verdict)]}

    def sentences(self, table: Table) -> list[str]:
        """Return which rows are dominated, and what the front leaves out."""
        return front_sentences(table)

    def legend(self, table: Table, explain: bool) -> str:
        """Return the rule by which rows are dominated."""
        if not table.of(Front).axes:
            return ""
        return front_rule(table) if explain else HOW


def _place(row: TableRow) -> str:
    if row.off_front:
        return "left out"
    if row.on_front is None:
        return ""
    return "front" if row.on_front else "dominated"


SECTION = FrontSection()
