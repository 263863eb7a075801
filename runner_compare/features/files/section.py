"""Model files side by side, with --files: a line for each file, which is shown in place of the
tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runner_compare.features.files.ranks import FileRow, FileTable
from runner_compare.features.files.render import (
    draw_files,
    file_columns,
    file_legend,
    file_records,
    file_sentences,
)
from runner_compare.model.comparison import Comparison, Grid, Shown
from runner_compare.section import Section


@dataclass
class ComparedFiles:
    """The table of all model files, if it was asked for."""

    table: FileTable | None = None


class Files(Section):
    """Model files side by side."""

    def parts(self, comparison: Comparison) -> list[Shown]:
        """Return the table of files."""
        table = comparison.of(ComparedFiles).table
        if table is None:
            return []
        grid = Grid(file_columns(table), classes=[_class_of(row) for row in table.files])
        said = [(text, None) for text in file_sentences(table)]
        figures = draw_files(table)
        return [
            Shown(
                "model files",
                [grid],
                [*said],
                file_legend(table),
                is_headed=False,
                is_alone=True,
                figures=figures,
            )
        ]

    def record_across(self, comparison: Comparison) -> dict[str, Any]:
        """Return the table of files as plain data."""
        table = comparison.of(ComparedFiles).table
        return {} if table is None else {"files": file_records(table)}


def _class_of(row: FileRow) -> str:
    if row.is_reference:
        return "baseline"
    return "dominated" if row.on_front is False else ""


SECTION = Files()
