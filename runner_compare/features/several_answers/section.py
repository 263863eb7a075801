"""Report section about several answers per question: mean accuracy, pass@k and majority vote."""

from __future__ import annotations

from runner_base import Column
from runner_compare.features.several_answers.render import LEGEND
from runner_compare.metrics import list_max_k_vote_metric_keys
from runner_compare.model.data import Table
from runner_compare.render.columns import build_metric_column
from runner_compare.section import ColumnSlot, Section


class SeveralAnswers(Section):
    """Report section about several answers per question."""

    def columns(self, table: Table) -> dict[ColumnSlot, list[Column]]:
        runs = [row.run for row in table.rows]
        return {
            ColumnSlot.comparison: [build_metric_column(key, runs, 1) for key in _vote_metric_keys(table)]
        }

    def legend(self, table: Table, explain: bool) -> str:
        return LEGEND if _vote_metric_keys(table) else ""


def _vote_metric_keys(table: Table) -> list[str]:
    return list(list_max_k_vote_metric_keys(row.run.metrics for row in table.rows))


SECTION = SeveralAnswers()
