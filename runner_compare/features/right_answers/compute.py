"""What a right answer costs, as far as it is known of any row."""

from __future__ import annotations

from dataclasses import dataclass, field

from runner_compare.features.thinking.compute import right_answer_costs
from runner_compare.model.data import ENGINE, Run, Table
from runner_compare.statistics.token_costs import Estimate

COUNTED = "energy_net_j"
SERVER, A_SERVER = "model.base_url", "a server"


@dataclass
class CostEstimates:
    """What a right answer costs, with intervals, by run id and cost."""

    of_rows: dict[str, dict[str, Estimate]] = field(default_factory=dict)


def is_shown(table: Table) -> bool:
    """Whether the table is of several engines, or knows energy or money."""
    known = any(row.run.metrics.keys() & {COUNTED, "cost_usd"} for row in table.rows)
    return table.scored and (known or len(set(engines_of(table))) > 1)


def engines_of(table: Table) -> list[str]:
    """Return who has computed each row."""
    return [row.run.value(ENGINE) or A_SERVER for row in table.rows]


def costs_of(run: Run) -> dict[str, float]:
    """Return what a right answer costs, as far as it is known."""
    metrics, by_answers = run.metrics, right_answer_costs(run)
    costs = {
        "seconds": metrics.get("right_answer_s"),
        "tokens": by_answers.get("tokens"),
        "money": by_answers.get("usd", metrics.get("energy_cost_per_right_answer")),
        "joules": metrics.get("joules_per_right_answer"),
    }
    return {key: cost for key, cost in costs.items() if cost is not None}
