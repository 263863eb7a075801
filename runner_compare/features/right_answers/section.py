"""Report section with each run's cost per correct answer in time, tokens, money and energy."""

from __future__ import annotations

from typing import Any

from runner_base import Column
from runner_compare.features.right_answers.compute import (
    TableCostEstimates,
    compute_costs_per_correct_answer,
    should_show_costs,
)
from runner_compare.features.right_answers.intervals import estimate_costs_per_correct_answer
from runner_compare.features.right_answers.render import (
    LEGEND,
    OF_JOBS,
    TITLE,
    build_cost_table_columns,
    format_missing_cost_sentences,
)
from runner_compare.features.thinking.render import build_cost_per_answer_record
from runner_compare.model.data import Table, TableRow
from runner_compare.reader import Reader
from runner_compare.section import Section


class CorrectAnswerCosts(Section):
    """Report section with the cost per correct answer."""

    def compute(self, table: Table, reader: Reader) -> None:
        for row in table.rows if should_show_costs(table) else ():
            table.get_section_data(TableCostEstimates).of_rows[row.run.run_id] = (
                estimate_costs_per_correct_answer(row.run, reader, compute_costs_per_correct_answer(row.run))
            )

    def tables(self, table: Table) -> dict[str, list[Column]]:
        return {TITLE: build_cost_table_columns(table)} if should_show_costs(table) else {}

    def sentences(self, table: Table) -> list[str]:
        return format_missing_cost_sentences(table) if should_show_costs(table) else []

    def short_tables(self, table: Table) -> dict[str, list[Column]]:
        return {}

    def short_sentences(self, table: Table) -> list[str]:
        return []

    def legend(self, table: Table, explain: bool) -> str:
        return LEGEND if should_show_costs(table) else ""

    def row_record(self, table: Table, row: TableRow) -> dict[str, Any]:
        metrics = row.run.metrics
        energy = {key: metrics[key] for key in (*OF_JOBS, "energy_cost") if key in metrics}
        estimates = table.get_section_data(TableCostEstimates).of_rows.get(row.run.run_id, {})
        costs = (
            build_cost_per_answer_record(compute_costs_per_correct_answer(row.run), estimates)
            if should_show_costs(table)
            else {}
        )
        return {key: found for key, found in (("energy", energy), ("right_answer", costs)) if found}


SECTION = CorrectAnswerCosts()
