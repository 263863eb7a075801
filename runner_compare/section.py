"""Base class of comparison sections, which add columns, sentences, JSON, CSV, pictures and
pages.
"""

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
    """Position of a section's columns in a task's accuracy table."""

    accuracy = auto()  # beside the accuracy
    comparison = auto()  # after the comparison with the baseline
    last = auto()  # after all others


class Section:
    """One feature's contribution to a comparison. A method that is not overridden adds nothing."""

    def compute(self, table: Table, reader: Reader) -> None:
        """Compute the section's data and store it in the table."""

    # ---- tables and sentences

    def columns(self, table: Table) -> dict[ColumnSlot, list[Column]]:
        """Return additional columns of a task's accuracy table."""
        return {}

    def tables(self, table: Table) -> dict[str, list[Column]]:
        """Return the columns of additional tables below a task's, by title."""
        return {}

    def short_tables(self, table: Table) -> dict[str, list[Column]]:
        """Return those of its tables that the default output shows."""
        return self.tables(table)

    def cross_task_parts(self, comparison: Comparison) -> list[ReportPart]:
        """Return report parts that cover several tasks."""
        return []

    def sentences(self, table: Table) -> list[str]:
        """Return sentences about a table, which follow the findings about its rows."""
        return []

    def short_sentences(self, table: Table) -> list[str]:
        """Return what the default output says: a short sentence for each finding that no table shows."""
        return self.sentences(table)

    def legend(self, table: Table, explain: bool) -> str:
        """Return the explanation of the section's columns; in full with `explain`."""
        return ""

    # ---- JSON and CSV

    def table_record(self, table: Table) -> dict[str, Any]:
        """Return additional JSON keys of a table."""
        return {}

    def comparison_record(self, comparison: Comparison) -> dict[str, Any]:
        """Return additional JSON keys of the whole comparison."""
        return {}

    def row_record(self, table: Table, row: TableRow) -> dict[str, Any]:
        """Return additional JSON keys of a row; `row_records.ORDER` defines their order."""
        return {}

    def csv_fields(self, table: Table, row: TableRow) -> dict[str, Any]:
        """Return additional CSV columns of a row: the parts of its record, each under its own name."""
        records = self.row_record(table, row).items()
        return {f"{key}_{part}": value for key, record in records if record for part, value in record.items()}

    def pictures(self, table: Table) -> list[Picture]:
        """Return pictures of a table that this process draws."""
        return []


# ---- what only some sections do besides


@runtime_checkable
class NamesRuns(Protocol):
    """A section that names teams (--teams)."""

    def name_runs(self, runs: Sequence[Run], reader: Reader) -> Sequence[Run]:
        """Return the runs with their team names."""

    def replaces_key(self, key: str) -> bool:
        """Whether a team's name replaces this config key."""


@runtime_checkable
class CrossTaskTables(Protocol):
    """A section with tables over several tasks."""

    def cross_task_tables(self, tables: Sequence[Table]) -> dict[str, list[Column]]:
        """Return the columns of tables over several tasks, by title."""


@runtime_checkable
class RowSentences(Protocol):
    """A section with sentences about single rows."""

    def row_sentences(self, table: Table, row: TableRow) -> list[str]:
        """Return the sentences that follow the finding about a row."""


@runtime_checkable
class HasRequirements(Protocol):
    """A section with requirements on a table."""

    def unmet_requirements(self, table: Table) -> list[str]:
        """Return a line for each requirement that a table does not meet."""


@runtime_checkable
class HasCsvLines(Protocol):
    """A section with its own CSV lines."""

    def csv_lines(self, comparison: Comparison) -> list[dict[str, Any]]:
        """Return the CSV lines below those of the tables."""


@runtime_checkable
class HasJobPictures(Protocol):
    """A section that shows pictures drawn by jobs."""

    def job_pictures(self, table: Table, reader: Reader) -> list[JobPicture]:
        """Return the jobs' pictures for the page."""


@runtime_checkable
class HasTableText(Protocol):
    """A section with text below a table, on a terminal and in Markdown."""

    def print_terminal(self, table: Table, out: TextIO) -> None: ...

    def render_markdown(self, table: Table) -> str: ...


@runtime_checkable
class HasPagePart(Protocol):
    """A section with an HTML part below a table's pictures."""

    def render_html(self, table: Table, reader: Reader) -> str: ...
