"""How far back the models of a table can look: recall by length and depth, the effective length,
and who is better."""

from __future__ import annotations

from typing import Any

from runner_base import Column, Picture
from runner_compare.features.recall.compute import RecallOfTable, add_recall, error_families, recall_rows
from runner_compare.features.recall.render.pictures import recall_pictures
from runner_compare.features.recall.render.tables import recall_legend, recall_sentences, recall_tables
from runner_compare.features.recall.render.words import findings_record
from runner_compare.model.data import Table, TableRow
from runner_compare.model.error_families import errors_record
from runner_compare.reader import Reader
from runner_compare.render.compared_parts import questions_record
from runner_compare.section import Section


class Recall(Section):
    """Recall in long texts."""

    def add(self, table: Table, reader: Reader) -> None:
        add_recall(table, reader)

    def tables(self, table: Table) -> dict[str, list[Column]]:
        return recall_tables(table) if table.of(RecallOfTable).findings else {}

    def sentences(self, table: Table) -> list[str]:
        return recall_sentences(table)

    def legend(self, table: Table, explain: bool) -> str:
        return recall_legend(table) if table.of(RecallOfTable).findings else ""

    def record(self, table: Table) -> dict[str, Any]:
        return errors_record(error_families(table)) if table.of(RecallOfTable).findings else {}

    def row_record(self, table: Table, row: TableRow) -> dict[str, Any]:
        """Return what a row's answers say, with its comparisons."""
        kept = table.of(RecallOfTable)
        findings = kept.findings.get(row.run.run_id)
        if findings is None:
            return {}
        compared = [
            {"tokens": length} | questions_record(decision)
            for length, decision in kept.compared.get(row.run.run_id, {}).items()
        ]
        return {"recall": findings_record(findings) | {"compared": compared}}

    def sheet(self, table: Table, row: TableRow) -> dict[str, Any]:
        """Return the effective length, and recall by length, as columns of CSV."""
        findings = table.of(RecallOfTable).findings.get(row.run.run_id)
        if findings is None:
            return {}
        found = findings.effective
        lengths = {f"recall_{length.length}": length.share for length in findings.lengths}
        if found is None:
            return lengths
        return {"effective_length_at_least": found.at_least, "effective_length_below": found.below} | lengths

    def figures(self, table: Table) -> list[Picture]:
        """Return the curves over lengths, and the heat maps of length and depth."""
        rows = recall_rows(table)
        findings = table.of(RecallOfTable).findings
        return recall_pictures([(row, findings[row.run.run_id]) for row in rows], table.keys)


SECTION = Recall()
