"""What the rows' energy came to: joules of prefill and decode, and what a right answer costs in all
that is counted."""

from __future__ import annotations

from typing import Any

from runner_base import Column, Use
from runner_compare.columns import accuracy_of, naming
from runner_compare.data import ABSENT, Table, TableRow
from runner_compare.section import Section
from runner_compare.sections.thinking import cost_columns, metric_column

TITLE = "energy, and what a right answer costs"
JOULES = "joules_per_right_answer"
OF_JOBS = ("energy_net_j", "energy_prefill_j", "energy_decode_j", "idle_w", "energy_cost")
LEGEND = (
    "energy: what the processors used above their idling while questions were answered; its "
    "price includes the idling."
)


class EnergyOfRows(Section):
    """The energy of rows, beside the tokens, seconds and money of a right answer."""

    def tables(self, table: Table) -> dict[str, list[Column]]:
        """Return the table of energy by its title, if any row's was counted."""
        return {TITLE: energy_columns(table)} if is_counted(table) else {}

    def legend(self, table: Table, explain: bool) -> str:
        """Return what the columns are."""
        return LEGEND if is_counted(table) else ""

    def row_record(self, table: Table, row: TableRow) -> dict[str, Any]:
        """Return what a row's energy came to."""
        metrics = row.run.metrics
        found = {key: metrics[key] for key in (*OF_JOBS, JOULES) if key in metrics}
        return {"energy": found} if found else {}


def is_counted(table: Table) -> bool:
    """Whether the energy of any row was counted."""
    return any(OF_JOBS[0] in row.run.metrics for row in table.rows)


def energy_columns(table: Table) -> list[Column]:
    """Return the columns: what was used, and the tokens, seconds, money and joules of a right
    answer."""
    rows = table.rows
    shown = [*naming(table)]
    if table.scored:
        shown.append(Column("accuracy", list(map(accuracy_of, rows)), use=Use.result))
    shown += [
        metric_column(rows, key) for key in OF_JOBS if any(key in row.run.metrics for row in rows)
    ]
    shown += cost_columns(rows).values()
    if any(JOULES in row.run.metrics for row in rows):
        cells = [
            format(row.run.metrics[JOULES], ".3g") if JOULES in row.run.metrics else ABSENT
            for row in rows
        ]
        shown.append(Column("J /right\nanswer", cells, use=Use.result))
    return shown


SECTION = EnergyOfRows()
