"""What the answers of a run cost in tokens, read from its samples: for each row, with intervals,
and its columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

from runner_base import Column, Picture
from runner_compare.features.token_costs.pictures import token_pictures
from runner_compare.metrics import ENDS, OF_CALLS, OF_QUESTION
from runner_compare.model.data import ABSENT, NotPaired, Question, Run, Table, TableRow
from runner_compare.model.outcomes import Costs
from runner_compare.reader import Reader
from runner_compare.section import Section, Slot
from runner_compare.statistics.token_costs import Estimate, TokenCells, TokenCost


@dataclass
class CostsOfRows:
    """What the rows of teams cost, by run id: each row, and its questions in a table for each
    seed."""

    of_rows: dict[str, TokenCost] = field(default_factory=dict)
    of_questions: dict[str, list[Costs]] = field(default_factory=dict)


class TokenCosts(Section):
    """What the answers of teams cost in tokens."""

    def add(self, table: Table, reader: Reader) -> None:
        """Read the costs."""
        add_token_costs(table, reader)

    def columns(self, table: Table) -> dict[Slot, list[Column]]:
        """Return how many right answers each row has for its tokens."""
        costs = table.of(CostsOfRows).of_rows
        if not costs:
            return {}
        cells = [_per_1000(costs.get(row.run.run_id)) for row in table.rows]
        return {Slot.comparison: [Column("correct per\n1,000 tokens", cells)]}

    def row_record(self, table: Table, row: TableRow) -> dict[str, Any]:
        """Return a row's costs."""
        cost = table.of(CostsOfRows).of_rows.get(row.run.run_id)
        return {"tokens": cost_record(cost)} if cost else {}

    def figures(self, table: Table) -> list[Picture]:
        """Return the picture of accuracy over tokens."""
        costs = table.of(CostsOfRows).of_rows
        return token_pictures(table, {run_id: cost.tokens_a_question for run_id, cost in costs.items()})


def add_token_costs(table: Table, reader: Reader) -> None:
    """Read what each row of teams cost, and each of its questions."""
    kept = table.of(CostsOfRows)
    for row in table.rows:
        if row.run.interval is None or not row.run.metrics.keys() >= set(OF_QUESTION):
            continue  # only questions that take many calls have recorded what each of them cost
        try:
            costs = costs_by_seed(row.run, reader)
        except NotPaired:
            continue  # its samples are gone: the row has its metrics, and no interval of its tokens
        kept.of_questions[row.run.run_id] = costs
        cost = TokenCost.of(cells_of(costs, sorted(costs[0])), Estimate(*row.run.interval))
        if cost is not None:
            kept.of_rows[row.run.run_id] = cost


def _per_1000(cost: TokenCost | None) -> str:
    if cost is None:
        return ABSENT
    value, low, high = cost.correct_per_1000
    return f"{value:.2f} [{low:.2f}, {high:.2f}]".replace("inf", "∞")


def costs_by_seed(run: Run, reader: Reader) -> list[Costs]:
    """Return the costs of a run's questions: a table for each seed, a single one for any other
    run."""
    parts = [reader.costs(part) for part in run.parts or [run]]
    return (
        parts if run.over_seeds else [{question: cost for part in parts for question, cost in part.items()}]
    )


def cells_of(costs: Sequence[Costs], questions: Sequence[Question]) -> TokenCells:
    """Return the costs of these questions as rows of numbers, one row for each seed."""
    rows = [[of_seed[question] for question in questions] for of_seed in costs]
    clusters = [cost.cluster for cost in rows[0]]
    return TokenCells(
        [[cost.prompt for cost in row] for row in rows],
        [[cost.new for cost in row] for row in rows],
        [[cost.right for cost in row] for row in rows],
        None if None in clusters else clusters,
    )


def training_tokens(run: Run) -> float | None:
    """Return the tokens that training took, in the mean over seeds; None if nothing was trained."""
    counts = [[part.metrics.get(f"train_{key}") for key in OF_CALLS] for part in run.parts or [run]]
    known = [[count for count in of_part if count is not None] for of_part in counts]
    return fmean(map(sum, known)) if any(known) else None


def cost_record(cost: TokenCost) -> dict[str, Any]:
    """Return the costs as plain data; an end that is infinite is null."""
    record = {key: value for key, value in asdict(cost).items() if not isinstance(value, tuple)}
    for key in ("tokens_a_question", "correct_per_1000"):
        record |= estimate_record(key, getattr(cost, key))
    return record


def estimate_record(key: str, estimate: Estimate) -> dict[str, float | None]:
    """Return a value and the ends of its interval under their keys in JSON."""
    ends = {f"{key}{end}": value for end, value in zip(ENDS, estimate, strict=True)}
    return {name: value if abs(value) != float("inf") else None for name, value in ends.items()}


SECTION = TokenCosts()
