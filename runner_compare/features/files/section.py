"""Section that compares model files (--files), one line per file, instead of the task tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runner_compare.features.files.ranks import FileRow, FileTable
from runner_compare.features.files.render import (
    file_columns,
    file_legend,
    file_pictures,
    file_records,
    file_sentences,
)
from runner_compare.model.comparison import Comparison, ReportPart, TableGrid
from runner_compare.section import Section


@dataclass
class ComparisonFiles:
    """Holds the table of all model files, if --files requested it."""

    table: FileTable | None = None


class Files(Section):
    """Report section that compares model files."""

    def cross_task_parts(self, comparison: Comparison) -> list[ReportPart]:
        table = comparison.get_section_data(ComparisonFiles).table
        if table is None:
            return []
        grid = TableGrid(file_columns(table), classes=[_css_class(row) for row in table.files])
        said = [(text, None) for text in file_sentences(table)]
        figures = file_pictures(table)
        return [
            ReportPart(
                "model files",
                [grid],
                [*said],
                legend=file_legend(table),
                is_headed=False,
                is_alone=True,
                figures=figures,
            )
        ]

    def comparison_record(self, comparison: Comparison) -> dict[str, Any]:
        table = comparison.get_section_data(ComparisonFiles).table
        return {} if table is None else {"files": file_records(table)}


def _css_class(row: FileRow) -> str:
    if row.is_reference:
        return "baseline"
    return "dominated" if row.on_front is False else ""


SECTION = Files()
