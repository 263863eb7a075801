"""How many answers guessed tokens have changed: rows that differ from their baselines only in who guesses."""

from __future__ import annotations

from typing import Any

from runner_compare.features.changed_answers.compute import ChangedOfTable, count_changed, differ_in_guesses
from runner_compare.features.changed_answers.render import changed_sentence
from runner_compare.model.data import NotPaired, Table, TableRow
from runner_compare.reader import Reader
from runner_compare.render.labels import versus
from runner_compare.section import Section


class ChangedAnswersSection(Section):
    """Answers that guessed tokens have changed."""

    def add(self, table: Table, reader: Reader) -> None:
        """Count the answers that differ from the baseline's."""
        kept = table.of(ChangedOfTable).counts
        for row in table.settings if table.scored else ():
            if row.baseline is None or not differ_in_guesses(row.run, row.baseline.run, reader):
                continue
            try:
                kept[row.run.run_id] = count_changed(row.run, row.baseline.run, reader)
            except NotPaired:
                continue  # the note of the row says why

    def sentences(self, table: Table) -> list[str]:
        """Say how many answers differ."""
        kept = table.of(ChangedOfTable).counts
        return [
            changed_sentence(versus(row, table.keys), kept[row.run.run_id])
            for row in table.rows
            if row.run.run_id in kept
        ]

    def row_record(self, table: Table, row: TableRow) -> dict[str, Any]:
        """Return the counts of a row."""
        found = table.of(ChangedOfTable).counts.get(row.run.run_id)
        if found is None:
            return {}
        low, high = found.interval
        counts = {"changed": found.changed, "answers": found.answers}
        return {"changed_answers": counts | {"share_low": low, "share_high": high}}


SECTION = ChangedAnswersSection()
