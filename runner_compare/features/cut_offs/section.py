"""Report section about answers that a token limit cut off."""

from __future__ import annotations

from runner_base import Column, join_first_names
from runner_compare.features.cut_offs.render import LEGEND, format_accuracy_bounds
from runner_compare.model.data import Table
from runner_compare.render.answers import format_cut_off_message
from runner_compare.render.labels import MAX_NAMES, format_row_name
from runner_compare.section import ColumnSlot, Section


class CutOffs(Section):
    """Report section about answers cut off by a token limit."""

    def columns(self, table: Table) -> dict[ColumnSlot, list[Column]]:
        """Return a column with each run's possible accuracy without a token limit. Empty if no
        answer was cut off.
        """
        if not any(row.run.accuracy_bounds for row in table.rows):
            return {}
        return {
            ColumnSlot.accuracy: [
                Column("accuracy\nbounds", list(map(format_accuracy_bounds, table.rows)), drop_order=1)
            ]
        }

    def sentences(self, table: Table) -> list[str]:
        names: dict[str, list[str]] = {}
        for row in table.rows:
            names.setdefault(format_cut_off_message(row.run.metrics, row.run.params), []).append(
                format_row_name(row, table.keys)
            )
        return [f"{join_first_names(names[text], MAX_NAMES)}: {text}" for text in names if text]

    def legend(self, table: Table, explain: bool) -> str:
        has_ends = any(effect.ends for row in table.compared_rows for effect in row.effects)
        return LEGEND if has_ends else ""


SECTION = CutOffs()
