"""Report section of --plan-questions: how many questions each comparison needs, and how long they take."""

from __future__ import annotations

from typing import Any

from runner_base import Column
from runner_compare.features.planning.compute import TablePlans
from runner_compare.features.planning.render import build_question_plan_columns, format_plan_title
from runner_compare.model.data import Table, TableRow
from runner_compare.render.notes import render_notes
from runner_compare.section import Section


class Planning(Section):
    """Report section with the number of questions that each comparison needs."""

    def tables(self, table: Table) -> dict[str, list[Column]]:
        return (
            {format_plan_title(table): build_question_plan_columns(table)}
            if table.get_section_data(TablePlans).of_rows
            else {}
        )

    def row_record(self, table: Table, row: TableRow) -> dict[str, Any]:
        plan = table.get_section_data(TablePlans).of_rows.get(row.run.run_id)
        return {"plan": vars(plan) | {"reason": render_notes(plan.reason)} if plan else None}


SECTION = Planning()
