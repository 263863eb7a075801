"""Report section that compares model files (--files). Its table replaces the tables per task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runner_compare.features.files.ranks import FileRow, FileTable
from runner_compare.features.files.render import (
    build_file_columns,
    build_file_records,
    create_kl_over_size_pictures,
    format_file_legend,
    format_model_file_sentences,
)
from runner_compare.model.comparison import Comparison, ReportPart, TableGrid
from runner_compare.section import Section


@dataclass
class ComparisonFiles:
    """Table of model files. None unless --files is set."""

    table: FileTable | None = None


class Files(Section):
    """Report section that compares model files."""

    def cross_task_parts(self, comparison: Comparison) -> list[ReportPart]:
        table = comparison.get_section_data(ComparisonFiles).table
        if table is None:
            return []
        grid = TableGrid(build_file_columns(table), classes=[_css_class(row) for row in table.files])
        said = [(text, None) for text in format_model_file_sentences(table)]
        figures = create_kl_over_size_pictures(table)
        return [
            ReportPart(
                "model files",
                [grid],
                [*said],
                legend=format_file_legend(table),
                is_headed=False,
                is_alone=True,
                figures=figures,
            )
        ]

    def comparison_record(self, comparison: Comparison) -> dict[str, Any]:
        table = comparison.get_section_data(ComparisonFiles).table
        return {} if table is None else {"files": build_file_records(table)}


def _css_class(row: FileRow) -> str:
    if row.is_reference:
        return "baseline"
    return "dominated" if row.on_front is False else ""


SECTION = Files()
