"""Report section with recall by text length and depth, and effective context lengths."""

from __future__ import annotations

from typing import Any

from runner_base import Column, Picture
from runner_compare.features.recall.compute import (
    TableRecall,
    compare_recall_with_baselines,
    list_recall_error_families,
    list_recall_rows,
)
from runner_compare.features.recall.render.pictures import create_recall_pictures_per_row
from runner_compare.features.recall.render.recall_text import recall_record
from runner_compare.features.recall.render.tables import (
    build_recall_tables,
    format_recall_legend,
    format_recall_sentences,
    format_short_recall_sentences,
    short_recall_tables,
)
from runner_compare.model.data import Table, TableRow
from runner_compare.model.error_families import error_families_record
from runner_compare.reader import Reader
from runner_compare.render.compared_parts import question_comparison_record
from runner_compare.section import Section


class Recall(Section):
    """Report section about recall in long texts."""

    def compute(self, table: Table, reader: Reader) -> None:
        compare_recall_with_baselines(table, reader)

    def tables(self, table: Table) -> dict[str, list[Column]]:
        return build_recall_tables(table) if table.get_section_data(TableRecall).findings else {}

    def sentences(self, table: Table) -> list[str]:
        return format_recall_sentences(table)

    def short_tables(self, table: Table) -> dict[str, list[Column]]:
        return short_recall_tables(table) if table.get_section_data(TableRecall).findings else {}

    def short_sentences(self, table: Table) -> list[str]:
        return format_short_recall_sentences(table)

    def legend(self, table: Table, explain: bool) -> str:
        return format_recall_legend(table) if table.get_section_data(TableRecall).findings else ""

    def table_record(self, table: Table) -> dict[str, Any]:
        return (
            error_families_record(list_recall_error_families(table))
            if table.get_section_data(TableRecall).findings
            else {}
        )

    def row_record(self, table: Table, row: TableRow) -> dict[str, Any]:
        kept = table.get_section_data(TableRecall)
        findings = kept.findings.get(row.run.run_id)
        if findings is None:
            return {}
        compared = [
            {"tokens": length} | question_comparison_record(decision)
            for length, decision in kept.compared.get(row.run.run_id, {}).items()
        ]
        return {"recall": recall_record(findings) | {"compared": compared}}

    def csv_fields(self, table: Table, row: TableRow) -> dict[str, Any]:
        findings = table.get_section_data(TableRecall).findings.get(row.run.run_id)
        if findings is None:
            return {}
        found = findings.effective_length
        lengths = {f"recall_{length.length}": length.share for length in findings.length_recalls}
        if found is None:
            return lengths
        return {
            "effective_length_at_least": found.at_least,
            "effective_length_below": found.first_lost_length,
        } | lengths

    def pictures(self, table: Table) -> list[Picture]:
        rows = list_recall_rows(table)
        findings = table.get_section_data(TableRecall).findings
        return create_recall_pictures_per_row([(row, findings[row.run.run_id]) for row in rows], table.keys)


SECTION = Recall()
