"""Report section with the Pareto front of accuracy, memory, speed and energy."""

from __future__ import annotations

from runner_base import Column
from runner_compare.features.front.compute import FrontData
from runner_compare.features.front.render import (
    build_pareto_front_columns,
    describe_dominance_rule,
    format_dominated_rows_sentence,
    format_machine_contention_sentences,
    format_pareto_front_sentences,
)
from runner_compare.model.data import Table
from runner_compare.section import ColumnSlot, Section


class FrontSection(Section):
    """Report section with the Pareto front."""

    def columns(self, table: Table) -> dict[ColumnSlot, list[Column]]:
        return (
            {ColumnSlot.last: build_pareto_front_columns(table)}
            if table.get_section_data(FrontData).axes
            else {}
        )

    def sentences(self, table: Table) -> list[str]:
        return [*filter(None, [format_dominated_rows_sentence(table)]), *format_pareto_front_sentences(table)]

    def short_sentences(self, table: Table) -> list[str]:
        return format_machine_contention_sentences(table)

    def legend(self, table: Table, explain: bool) -> str:
        return describe_dominance_rule(table) if table.get_section_data(FrontData).axes and explain else ""


SECTION = FrontSection()
