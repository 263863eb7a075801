"""Report section about complete answers from which the extractor could not extract a final
answer.
"""

from __future__ import annotations

from runner_compare.model.data import Table
from runner_compare.render.answers import format_unextracted_answers_message
from runner_compare.render.labels import format_row_name
from runner_compare.section import Section


class UnreadAnswers(Section):
    """Report section about complete answers without an extracted final answer."""

    def sentences(self, table: Table) -> list[str]:
        note = format_unextracted_answers_message(
            (format_row_name(row, table.keys), row.run.metrics, row.run.params) for row in table.rows
        )
        return [note] if note else []


SECTION = UnreadAnswers()
