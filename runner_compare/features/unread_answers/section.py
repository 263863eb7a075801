"""Section about rows with complete answers that the extractor mostly could not read."""

from __future__ import annotations

from runner_compare.model.data import Table
from runner_compare.render.answers import unread_answers_message
from runner_compare.render.labels import row_name
from runner_compare.section import Section


class UnreadAnswers(Section):
    """Report section about complete answers that the extractor could not read."""

    def sentences(self, table: Table) -> list[str]:
        note = unread_answers_message(
            (row_name(row, table.keys), row.run.metrics, row.run.params) for row in table.rows
        )
        return [note] if note else []


SECTION = UnreadAnswers()
