"""What a right answer costs in each row: time, tokens, money and energy side by side, whoever
computes the model; and what the energy came to."""

from __future__ import annotations

from typing import Any

from runner_base import Column
from runner_compare.features.right_answers.compute import CostEstimates, costs_of, is_shown
from runner_compare.features.right_answers.intervals import estimate_costs
from runner_compare.features.right_answers.render import LEGEND, OF_JOBS, TITLE, cost_table, missing_sentences
from runner_compare.features.thinking.render import costs_record
from runner_compare.model.data import Table, TableRow
from runner_compare.reader import Reader
from runner_compare.section import Section


class RightAnswers(Section):
    """What a right answer costs."""

    def add(self, table: Table, reader: Reader) -> None:
        for row in table.rows if is_shown(table) else ():
            table.of(CostEstimates).of_rows[row.run.run_id] = estimate_costs(
                row.run, reader, costs_of(row.run)
            )

    def tables(self, table: Table) -> dict[str, list[Column]]:
        return {TITLE: cost_table(table)} if is_shown(table) else {}

    def sentences(self, table: Table) -> list[str]:
        return missing_sentences(table) if is_shown(table) else []

    def legend(self, table: Table, explain: bool) -> str:
        return LEGEND if is_shown(table) else ""

    def row_record(self, table: Table, row: TableRow) -> dict[str, Any]:
        """Return what a row's energy came to, and what a right answer costs it."""
        metrics = row.run.metrics
        energy = {key: metrics[key] for key in (*OF_JOBS, "energy_cost") if key in metrics}
        estimates = table.of(CostEstimates).of_rows.get(row.run.run_id, {})
        costs = costs_record(costs_of(row.run), estimates) if is_shown(table) else {}
        return {key: found for key, found in (("energy", energy), ("right_answer", costs)) if found}


SECTION = RightAnswers()
