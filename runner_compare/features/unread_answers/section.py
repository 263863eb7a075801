"""Of which rows the rule that judged has read few answers, although they ended."""

from __future__ import annotations

from runner_compare.model.data import Table
from runner_compare.render.answers import unread_note
from runner_compare.render.labels import name_of
from runner_compare.section import Section


class UnreadAnswers(Section):
    """Answers that the rule has not read."""

    def sentences(self, table: Table) -> list[str]:
        """Say of which rows few answers were read."""
        note = unread_note((name_of(row, table.keys), row.run.metrics, row.run.params) for row in table.rows)
        return [note] if note else []


SECTION = UnreadAnswers()
