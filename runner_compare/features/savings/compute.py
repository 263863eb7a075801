"""Compares the token use of agent teams with their baselines, question by question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from runner_compare.features.token_costs.compute import (
    build_token_count_matrices,
    compute_mean_training_tokens,
)
from runner_compare.model.data import Run, Table
from runner_compare.model.outcomes import Costs
from runner_compare.statistics import ALPHA
from runner_compare.statistics.stats import holm_adjust
from runner_compare.statistics.token_costs import TokenFinding, TokenSaving

KINDS = ("spatial", "temporal")
NULL = (None, "null", "None", "")


@dataclass
class TableSavings:
    """Token savings of agent teams compared with their baselines, by run id."""

    of_rows: dict[str, TokenSaving] = field(default_factory=dict)


def compare_token_use_with_baselines(table: Table, costs_by_run: Mapping[str, Sequence[Costs]]) -> None:
    """Compare the token use of each agent team with its baseline, on questions that both answered."""
    of_rows = table.get_section_data(TableSavings).of_rows
    for row in table.rows:
        if row.baseline is None:
            continue
        saving = compute_saving(row.run, row.baseline.run, costs_by_run)
        if saving is not None:
            of_rows[row.run.run_id] = saving
    savings = of_rows.values()
    for saving, p_holm in zip(savings, holm_adjust([saving.p for saving in savings]), strict=True):
        saving.p_holm = p_holm
        if p_holm < ALPHA:
            saving.finding = TokenFinding.saves if saving.both.value > 0 else TokenFinding.costs_more


def compute_saving(run: Run, base: Run, costs_by_run: Mapping[str, Sequence[Costs]]) -> TokenSaving | None:
    """Return the tokens that a run saves compared with its baseline; None without shared questions."""
    costs, base_costs = costs_by_run.get(run.run_id), costs_by_run.get(base.run_id)
    if not costs or not base_costs:
        return None
    answered = [
        {question for question, cost in of_seed.items() if not cost.failed}
        for side in (costs, base_costs)
        for of_seed in side
    ]
    shared = sorted(set.intersection(*answered))
    if not shared:
        return None
    training = (compute_mean_training_tokens(run) or 0.0) - (compute_mean_training_tokens(base) or 0.0)
    run_cells, base_cells = (
        build_token_count_matrices(costs, shared),
        build_token_count_matrices(base_costs, shared),
    )
    return TokenSaving.from_cells(
        replace(run_cells, clusters=run_cells.clusters or base_cells.clusters), base_cells, training
    )


def get_agent_graph_origin(run: Run) -> str:
    """Return the origin of a run's agent graph: `fixed`, `drawn` (at random), `learned` or
    `given`.
    """
    if run.get_value("task.graph") not in NULL:
        return "given"
    if "true" in {(run.get_value(f"task.optimized_{kind}") or "").lower() for kind in KINDS}:
        return "learned" if run.metrics.get("train_questions") else "drawn"
    return "fixed"
