"""Calls of functions in a table: at which step each row's fail, and where rows are better."""

from __future__ import annotations

from typing import Any

from runner_base import Column
from runner_compare.features.tool_calls.pairs import CallsOfTable, add_calls, error_families
from runner_compare.features.tool_calls.render import LEGEND, call_sentences, call_tables, cell_record
from runner_compare.model.data import Table, TableRow
from runner_compare.model.error_families import errors_record
from runner_compare.reader import Reader
from runner_compare.render.compared_parts import questions_record
from runner_compare.section import Section


class ToolCalls(Section):
    """Calls of functions."""

    def add(self, table: Table, reader: Reader) -> None:
        add_calls(table, reader)

    def tables(self, table: Table) -> dict[str, list[Column]]:
        return call_tables(table) if table.of(CallsOfTable).findings else {}

    def sentences(self, table: Table) -> list[str]:
        return call_sentences(table)

    def legend(self, table: Table, explain: bool) -> str:
        return LEGEND if table.of(CallsOfTable).findings else ""

    def row_record(self, table: Table, row: TableRow) -> dict[str, Any]:
        """Return what a row's answers came to, with its comparisons."""
        kept = table.of(CallsOfTable)
        findings = kept.findings.get(row.run.run_id)
        if findings is None:
            return {}
        compared = [
            {"category": category, "tokens": length} | questions_record(decision)
            for (category, length), decision in kept.compared.get(row.run.run_id, {}).items()
        ]
        cells = [cell_record(cell) for cell in findings.cells]
        steps = [
            {"step": step} | questions_record(decision)
            for step, decision in kept.steps.get(row.run.run_id, {}).items()
        ]
        lengths = [
            {"tokens": length, "shortest": findings.lengths[0]} | questions_record(decision)
            for length, decision in kept.lengths.get(row.run.run_id, {}).items()
        ]
        parts = {"compared": compared, "steps_compared": steps, "lengths_compared": lengths}
        return {"tool_calls": {"steps": findings.steps, "cells": cells, **parts}}

    def record(self, table: Table) -> dict[str, Any]:
        return errors_record(error_families(table)) if table.of(CallsOfTable).findings else {}

    def sheet(self, table: Table, row: TableRow) -> dict[str, Any]:
        """Return the shares of each step, and of each category and length, as columns of CSV."""
        findings = table.of(CallsOfTable).findings.get(row.run.run_id)
        if findings is None:
            return {}
        cells = {f"right_calls_{cell.category}_{cell.length}": cell.share for cell in findings.cells}
        return {f"{step}_share": share for step, share in findings.steps.items()} | cells


SECTION = ToolCalls()
