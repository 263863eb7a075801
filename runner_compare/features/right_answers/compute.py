"""Computes each run's cost per correct answer."""

from __future__ import annotations

from dataclasses import dataclass, field

from runner_compare.features.thinking.compute import compute_usage_costs_per_correct_answer
from runner_compare.model.data import ENGINE, Run, Table
from runner_compare.statistics.token_costs import Estimate

COUNTED = "energy_net_j"
SERVER, A_SERVER = "model.base_url", "a server"


@dataclass
class TableCostEstimates:
    """Costs per correct answer with confidence intervals, by run id and kind of cost."""

    of_rows: dict[str, dict[str, Estimate]] = field(default_factory=dict)


def should_show_costs(table: Table) -> bool:
    """Return True if a table has runs of several engines, or a run with known energy use or price."""
    known = any(row.run.metrics.keys() & {COUNTED, "cost_usd"} for row in table.rows)
    return table.has_accuracies and (known or len(set(row_engines(table))) > 1)


def row_engines(table: Table) -> list[str]:
    """Return the engine of each row."""
    return [row.run.get_value(ENGINE) or A_SERVER for row in table.rows]


def compute_costs_per_correct_answer(run: Run) -> dict[str, float]:
    metrics, by_answers = run.metrics, compute_usage_costs_per_correct_answer(run)
    costs = {
        "seconds": metrics.get("right_answer_s"),
        "tokens": by_answers.get("tokens"),
        "money": by_answers.get("usd", metrics.get("energy_cost_per_right_answer")),
        "joules": metrics.get("joules_per_right_answer"),
    }
    return {key: cost for key, cost in costs.items() if cost is not None}
