"""Token costs of a run's answers, computed from its samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from runner_compare.metrics import OF_CALLS, OF_QUESTION
from runner_compare.model.data import NotPaired, Question, Run, Table
from runner_compare.model.outcomes import Costs
from runner_compare.reader import Reader
from runner_compare.statistics.token_costs import Estimate, TokenCells, TokenCost


@dataclass
class TableTokenCosts:
    """Token costs of agent teams by run id: totals, and costs per question and seed."""

    of_rows: dict[str, TokenCost] = field(default_factory=dict)
    of_questions: dict[str, list[Costs]] = field(default_factory=dict)


def add_team_token_costs(table: Table, reader: Reader) -> None:
    """Load the token cost of each agent team, in total and per question."""
    kept = table.get_section_data(TableTokenCosts)
    for row in table.rows:
        if row.run.accuracy_interval is None or not row.run.metrics.keys() >= set(OF_QUESTION):
            continue  # only questions that take many calls have recorded what each of them cost
        try:
            costs = load_costs_by_seed(row.run, reader)
        except NotPaired:
            continue  # its samples are gone: the row has its metrics, and no interval of its tokens
        kept.of_questions[row.run.run_id] = costs
        cost = TokenCost.from_cells(
            build_token_count_matrices(costs, sorted(costs[0])), Estimate(*row.run.accuracy_interval)
        )
        if cost is not None:
            kept.of_rows[row.run.run_id] = cost


def load_costs_by_seed(run: Run, reader: Reader) -> list[Costs]:
    """Return the token cost of each question. The list has one mapping per seed."""
    parts = [reader.load_token_costs(part) for part in run.parts or [run]]
    return (
        parts if run.over_seeds else [{question: cost for part in parts for question, cost in part.items()}]
    )


def build_token_count_matrices(costs: Sequence[Costs], questions: Sequence[Question]) -> TokenCells:
    """Convert costs per question to matrices with one row per seed and one column per question."""
    rows = [[of_seed[question] for question in questions] for of_seed in costs]
    clusters = [cost.cluster for cost in rows[0]]
    return TokenCells(
        [[cost.prompt for cost in row] for row in rows],
        [[cost.new for cost in row] for row in rows],
        [[cost.right for cost in row] for row in rows],
        None if None in clusters else clusters,
    )


def compute_mean_training_tokens(run: Run) -> float | None:
    """Return the tokens spent on training, averaged over seeds; None without training."""
    counts = [[part.metrics.get(f"train_{key}") for key in OF_CALLS] for part in run.parts or [run]]
    known = [[count for count in of_part if count is not None] for of_part in counts]
    return fmean(map(sum, known)) if any(known) else None
