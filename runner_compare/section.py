"""Base class of report sections, which add columns, sentences, JSON, CSV, pictures and HTML."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from typing import Any, Protocol, TextIO, runtime_checkable

from runner_base import Column, Picture
from runner_compare.model.comparison import Comparison, ReportPart
from runner_compare.model.data import Run, Table, TableRow
from runner_compare.reader import Reader
from runner_compare.render.pictures import JobPicture


class ColumnSlot(Enum):
    """Position in the accuracy table at which a section inserts its columns."""

    accuracy = auto()  # beside the accuracy
    comparison = auto()  # after the comparison with the baseline
    last = auto()  # after all others


class Section:
    """Part of the report that one feature adds. Methods that a subclass does not override add nothing."""

    def compute(self, table: Table, reader: Reader) -> None:
        """Compute the section's data and store it in the table."""

    # ---- tables and sentences

    def columns(self, table: Table) -> dict[ColumnSlot, list[Column]]:
        """Return columns to insert into a task's accuracy table, by position."""
        return {}

    def tables(self, table: Table) -> dict[str, list[Column]]:
        """Return tables to show below a task's table: for each title, the columns."""
        return {}

    def short_tables(self, table: Table) -> dict[str, list[Column]]:
        """Return the section's tables in the default output."""
        return self.tables(table)

    def cross_task_parts(self, comparison: Comparison) -> list[ReportPart]:
        """Return report parts that cover several tasks."""
        return []

    def sentences(self, table: Table) -> list[str]:
        """Return sentences about a table, to show after the findings about its rows."""
        return []

    def short_sentences(self, table: Table) -> list[str]:
        """Return sentences for the default output, on findings that its tables do not show."""
        return self.sentences(table)

    def legend(self, table: Table, explain: bool) -> str:
        """Return the explanation of the section's columns. `explain` selects the full text."""
        return ""

    # ---- JSON and CSV

    def table_record(self, table: Table) -> dict[str, Any]:
        """Return the JSON keys and values that the section adds to a table."""
        return {}

    def comparison_record(self, comparison: Comparison) -> dict[str, Any]:
        """Return the JSON keys and values that the section adds to the whole comparison."""
        return {}

    def row_record(self, table: Table, row: TableRow) -> dict[str, Any]:
        """Return the JSON keys and values that the section adds to a table row.

        `row_records.ORDER` defines the order of the keys.
        """
        return {}

    def csv_fields(self, table: Table, row: TableRow) -> dict[str, Any]:
        """Return the CSV columns that the section adds to a row. Default: one per value of `row_record`."""
        records = self.row_record(table, row).items()
        return {f"{key}_{part}": value for key, record in records if record for part, value in record.items()}

    def pictures(self, table: Table) -> list[Picture]:
        """Return plots of a table that are drawn from the compared data."""
        return []


# ---- what only some sections do besides


@runtime_checkable
class NamesRuns(Protocol):
    """Section that assigns the team names from --teams to runs."""

    def name_runs(self, runs: Sequence[Run], reader: Reader) -> Sequence[Run]:
        """Return the runs with their team names."""

    def replaces_key(self, key: str) -> bool:
        """Whether the table shows team names instead of this config key."""


@runtime_checkable
class CrossTaskTables(Protocol):
    """Section that adds tables that cover several tasks."""

    def cross_task_tables(self, tables: Sequence[Table]) -> dict[str, list[Column]]:
        """Return tables that cover several tasks: for each title, the columns."""


@runtime_checkable
class RowSentences(Protocol):
    """Section that adds sentences about single table rows."""

    def row_sentences(self, table: Table, row: TableRow) -> list[str]:
        """Return sentences to show after the finding about a row."""


@runtime_checkable
class HasRequirements(Protocol):
    """Section that checks table rows against requirements."""

    def unmet_requirements(self, table: Table) -> list[str]:
        """Return a line for each requirement that a row of the table does not meet."""


@runtime_checkable
class HasCsvLines(Protocol):
    """Section that adds lines to the CSV output."""

    def csv_lines(self, comparison: Comparison) -> list[dict[str, Any]]:
        """Return additional CSV lines, which follow the lines of the tables."""


@runtime_checkable
class HasJobPictures(Protocol):
    """Section that shows plots which the compared jobs have drawn."""

    def job_pictures(self, table: Table, reader: Reader) -> list[JobPicture]:
        """Return the plots that a table's jobs have drawn, for the HTML page."""


@runtime_checkable
class HasTableText(Protocol):
    """Section that adds text below a table, on a terminal and in Markdown."""

    def print_terminal(self, table: Table, out: TextIO, show_all: bool) -> None: ...

    def render_markdown(self, table: Table) -> str: ...


@runtime_checkable
class HasPagePart(Protocol):
    """Section that adds HTML below a table's pictures."""

    def render_html(self, table: Table, reader: Reader) -> str: ...
