"""--plan-questions: how many questions each comparison needs, and how long the further ones take
here."""

from __future__ import annotations

from typing import Any

from runner_base import Column
from runner_compare.features.planning.compute import Plans
from runner_compare.features.planning.render import plan_columns, plan_title
from runner_compare.model.data import Table, TableRow
from runner_compare.render.notes import render_notes
from runner_compare.section import Section


class Planning(Section):
    """How many questions each comparison needs, if that was asked for."""

    def tables(self, table: Table) -> dict[str, list[Column]]:
        return {plan_title(table): plan_columns(table)} if table.of(Plans).of_rows else {}

    def row_record(self, table: Table, row: TableRow) -> dict[str, Any]:
        """Return a row's plan."""
        plan = table.of(Plans).of_rows.get(row.run.run_id)
        return {"plan": vars(plan) | {"reason": render_notes(plan.reason)} if plan else None}


SECTION = Planning()
