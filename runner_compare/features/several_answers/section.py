"""Several answers to each question: the share of all that are right, pass@k and the vote of k."""

from __future__ import annotations

from runner_base import Column
from runner_compare.features.several_answers.render import LEGEND
from runner_compare.metrics import of_all_answers
from runner_compare.model.data import Table
from runner_compare.render.columns import measured
from runner_compare.section import Section, Slot


class SeveralAnswers(Section):
    """Several answers to each question."""

    def columns(self, table: Table) -> dict[Slot, list[Column]]:
        """Return the columns of each number of answers that was recorded."""
        runs = [row.run for row in table.rows]
        return {Slot.comparison: [measured(key, runs, 1) for key in _keys(table)]}

    def legend(self, table: Table, explain: bool) -> str:
        return LEGEND if _keys(table) else ""


def _keys(table: Table) -> list[str]:
    return list(of_all_answers(row.run.metrics for row in table.rows))


SECTION = SeveralAnswers()
