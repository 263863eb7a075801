"""Report section that shows at which step tool calls fail, and which runs differ from the baseline."""

from __future__ import annotations

from typing import Any

from runner_base import Column
from runner_compare.features.tool_calls.pairs import (
    TableToolCalls,
    compare_tool_calls_with_baselines,
    list_tool_call_error_families,
)
from runner_compare.features.tool_calls.render import (
    LEGEND,
    build_cell_record,
    build_tool_call_tables,
    format_short_call_sentences,
    format_tool_call_findings,
    short_call_tables,
)
from runner_compare.model.data import Table, TableRow
from runner_compare.model.error_families import error_families_record
from runner_compare.reader import Reader
from runner_compare.render.compared_parts import question_comparison_record
from runner_compare.section import Section


class ToolCalls(Section):
    """Report section about tool calls."""

    def compute(self, table: Table, reader: Reader) -> None:
        compare_tool_calls_with_baselines(table, reader)

    def tables(self, table: Table) -> dict[str, list[Column]]:
        return build_tool_call_tables(table) if table.get_section_data(TableToolCalls).findings else {}

    def sentences(self, table: Table) -> list[str]:
        return format_tool_call_findings(table)

    def short_tables(self, table: Table) -> dict[str, list[Column]]:
        return short_call_tables(table) if table.get_section_data(TableToolCalls).findings else {}

    def short_sentences(self, table: Table) -> list[str]:
        return format_short_call_sentences(table)

    def legend(self, table: Table, explain: bool) -> str:
        return LEGEND if table.get_section_data(TableToolCalls).findings else ""

    def row_record(self, table: Table, row: TableRow) -> dict[str, Any]:
        kept = table.get_section_data(TableToolCalls)
        findings = kept.findings.get(row.run.run_id)
        if findings is None:
            return {}
        compared = [
            {"category": category, "tokens": length} | question_comparison_record(decision)
            for (category, length), decision in kept.compared.get(row.run.run_id, {}).items()
        ]
        cells = [build_cell_record(cell) for cell in findings.cells]
        steps = [
            {"step": step} | question_comparison_record(decision)
            for step, decision in kept.steps.get(row.run.run_id, {}).items()
        ]
        lengths = [
            {"tokens": length, "shortest": findings.context_lengths[0]} | question_comparison_record(decision)
            for length, decision in kept.lengths.get(row.run.run_id, {}).items()
        ]
        parts = {"compared": compared, "steps_compared": steps, "lengths_compared": lengths}
        return {"tool_calls": {"steps": findings.tool_call_step_pass_rates, "cells": cells, **parts}}

    def table_record(self, table: Table) -> dict[str, Any]:
        return (
            error_families_record(list_tool_call_error_families(table))
            if table.get_section_data(TableToolCalls).findings
            else {}
        )

    def csv_fields(self, table: Table, row: TableRow) -> dict[str, Any]:
        findings = table.get_section_data(TableToolCalls).findings.get(row.run.run_id)
        if findings is None:
            return {}
        cells = {f"right_calls_{cell.category}_{cell.length}": cell.accuracy for cell in findings.cells}
        return {f"{step}_share": share for step, share in findings.tool_call_step_pass_rates.items()} | cells


SECTION = ToolCalls()
