"""Finds configurations that ran with several thinking budgets.

A setting is a configuration without its thinking budget.
"""

from __future__ import annotations

from dataclasses import dataclass

from runner_compare.features.thinking.compute import BUDGET
from runner_compare.model.data import Table, TableRow, get_natural_sort_key

NO_BUDGET = (None, "null", "None")


@dataclass
class BudgetSetting:
    """Table rows that differ only in the thinking budget, smallest budget first, unlimited last."""

    rows: list[TableRow]
    keys: list[str]  # of the table, without the budget

    @property
    def config(self) -> dict[str, str | None]:
        return {key: self.rows[0].config[key] for key in self.keys}

    @property
    def budgets(self) -> list[str | None]:
        """Thinking budgets in tokens; None means unlimited."""
        return [get_thinking_budget(row) for row in self.rows]


def get_thinking_budget(row: TableRow) -> str | None:
    """Return the thinking budget in tokens as text, or None if it is unlimited."""
    budget = row.config.get(BUDGET, row.run.get_value(BUDGET))
    return None if budget in NO_BUDGET else budget


def budget_sort_key(budget: str | None) -> tuple[object, ...]:
    return budget is None, get_natural_sort_key(budget)


def group_rows_across_thinking_budgets(table: Table) -> list[BudgetSetting]:
    """Group table rows that differ only in the thinking budget. Groups of a single row are omitted."""
    if BUDGET not in table.keys or not table.has_accuracies:
        return []
    keys = [key for key in table.keys if key != BUDGET]
    groups: dict[tuple[str | None, ...], list[TableRow]] = {}
    for row in table.rows:
        if row.run.accuracy_interval and not row.is_repeat:
            groups.setdefault(tuple(row.config[key] for key in keys), []).append(row)
    ordered = (
        sorted(rows, key=lambda row: budget_sort_key(get_thinking_budget(row))) for rows in groups.values()
    )
    return [
        BudgetSetting(rows, keys)
        for rows in ordered
        if len({get_thinking_budget(row) for row in rows}) == len(rows) > 1
    ]
