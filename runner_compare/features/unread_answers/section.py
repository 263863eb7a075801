"""Report rows for which the extractor read few answers, although they ended."""

from __future__ import annotations

from runner_compare.model.data import Table
from runner_compare.render.answers import unread_answers_message
from runner_compare.render.labels import row_name
from runner_compare.section import Section


class UnreadAnswers(Section):
    """Section about answers that the extractor could not read."""

    def sentences(self, table: Table) -> list[str]:
        note = unread_answers_message(
            (row_name(row, table.keys), row.run.metrics, row.run.params) for row in table.rows
        )
        return [note] if note else []


SECTION = UnreadAnswers()
