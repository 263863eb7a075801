"""The settings of a table that have several budgets of thinking."""

from __future__ import annotations

from dataclasses import dataclass

from runner_compare.features.thinking.compute import BUDGET
from runner_compare.model.data import Table, TableRow, natural

NO_BUDGET = (None, "null", "None")


@dataclass
class Setting:
    """The rows that differ in the budget only, from the smallest to none."""

    rows: list[TableRow]
    keys: list[str]  # of the table, without the budget

    @property
    def config(self) -> dict[str, str | None]:
        return {key: self.rows[0].config[key] for key in self.keys}

    @property
    def budgets(self) -> list[str | None]:
        """The budgets of thinking tokens; None: no limit."""
        return [budget_of(row) for row in self.rows]


def budget_of(row: TableRow) -> str | None:
    """Return a row's budget of thinking tokens; None: no limit."""
    budget = row.config.get(BUDGET, row.run.value(BUDGET))
    return None if budget in NO_BUDGET else budget


def by_size(budget: str | None) -> tuple[object, ...]:
    """Return a sort key: no limit comes last."""
    return budget is None, natural(budget)


def settings_of(table: Table) -> list[Setting]:
    """Return the settings of a table that have several budgets."""
    if BUDGET not in table.keys or not table.scored:
        return []
    keys = [key for key in table.keys if key != BUDGET]
    groups: dict[tuple[str | None, ...], list[TableRow]] = {}
    for row in table.rows:
        if row.run.interval and not row.is_repeat:
            groups.setdefault(tuple(row.config[key] for key in keys), []).append(row)
    ordered = (sorted(rows, key=lambda row: by_size(budget_of(row))) for rows in groups.values())
    return [Setting(rows, keys) for rows in ordered if len({budget_of(row) for row in rows}) == len(rows) > 1]
