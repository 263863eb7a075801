"""Report section that counts how many answers speculative decoding changed."""

from __future__ import annotations

from typing import Any

from runner_compare.features.changed_answers.compute import (
    TableChangedAnswers,
    count_changed_answers,
    is_drafter_only_difference,
)
from runner_compare.features.changed_answers.render import format_changed_answers_sentence
from runner_compare.model.data import NotPaired, Table, TableRow
from runner_compare.reader import Reader
from runner_compare.render.labels import format_row_and_baseline_names
from runner_compare.section import Section


class ChangedAnswersSection(Section):
    """Report section with the fraction of answers that speculative decoding changed."""

    def compute(self, table: Table, reader: Reader) -> None:
        kept = table.get_section_data(TableChangedAnswers).counts
        for row in table.candidate_rows if table.has_accuracies else ():
            if row.baseline is None or not is_drafter_only_difference(row.run, row.baseline.run, reader):
                continue
            try:
                kept[row.run.run_id] = count_changed_answers(row.run, row.baseline.run, reader)
            except NotPaired:
                continue  # the note of the row says why

    def sentences(self, table: Table) -> list[str]:
        kept = table.get_section_data(TableChangedAnswers).counts
        return [
            format_changed_answers_sentence(
                format_row_and_baseline_names(row, table.keys), kept[row.run.run_id]
            )
            for row in table.rows
            if row.run.run_id in kept
        ]

    def row_record(self, table: Table, row: TableRow) -> dict[str, Any]:
        found = table.get_section_data(TableChangedAnswers).counts.get(row.run.run_id)
        if found is None:
            return {}
        low, high = found.interval
        counts = {"changed": found.num_changed, "answers": found.num_answers}
        return {"changed_answers": counts | {"share_low": low, "share_high": high}}


SECTION = ChangedAnswersSection()
