"""A feature of the comparison: what it computes, and what it adds to tables, sentences, JSON, CSV,
pictures, pages."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from typing import Any, Protocol, TextIO, runtime_checkable

from runner_base import Column, Picture
from runner_compare.model.comparison import Comparison, Shown
from runner_compare.model.data import Run, Table, TableRow
from runner_compare.reader import Reader
from runner_compare.render.pictures import JobPicture


class Slot(Enum):
    """Where the columns of a section stand in a task's table of accuracies."""

    accuracy = auto()  # beside the accuracy
    comparison = auto()  # after the comparison with the baseline
    last = auto()  # after all others


class Section:
    """What one feature adds; what a subclass leaves out adds nothing."""

    def add(self, table: Table, reader: Reader) -> None:
        """Compute what the section shows, and keep it in the table (`table.kept`)."""

    # ---- tables and sentences

    def columns(self, table: Table) -> dict[Slot, list[Column]]:
        """Return further columns of a task's table of accuracies."""
        return {}

    def tables(self, table: Table) -> dict[str, list[Column]]:
        """Return the columns of further tables below a task's, by their titles."""
        return {}

    def parts(self, comparison: Comparison) -> list[Shown]:
        """Return what is shown over several tasks."""
        return []

    def sentences(self, table: Table) -> list[str]:
        """Return what is said about a table, after the findings about its rows."""
        return []

    def legend(self, table: Table, explain: bool) -> str:
        """Return what explains the columns of the section; in full, if it should `explain`."""
        return ""

    # ---- JSON and CSV

    def record(self, table: Table) -> dict[str, Any]:
        """Return further keys of a table in JSON."""
        return {}

    def record_across(self, comparison: Comparison) -> dict[str, Any]:
        """Return further keys of the whole comparison in JSON."""
        return {}

    def row_record(self, table: Table, row: TableRow) -> dict[str, Any]:
        """Return further keys of a row in JSON; their order is that of `row_records.ORDER`."""
        return {}

    def sheet(self, table: Table, row: TableRow) -> dict[str, Any]:
        """Return further columns of a row in CSV: the parts of its record, each under a name of its
        own."""
        records = self.row_record(table, row).items()
        return {f"{key}_{part}": value for key, record in records if record for part, value in record.items()}

    def figures(self, table: Table) -> list[Picture]:
        """Return pictures of a table that are drawn here."""
        return []


# ---- what only some sections do besides


@runtime_checkable
class NamesRuns(Protocol):
    """It names teams in words (--teams)."""

    def named(self, runs: Sequence[Run], reader: Reader) -> Sequence[Run]:
        """Return the runs with these names."""

    def stands_for(self, key: str) -> bool:
        """Whether a name takes the place of this key."""


@runtime_checkable
class TablesAcross(Protocol):
    """It has tables over several tasks."""

    def across(self, tables: Sequence[Table]) -> dict[str, list[Column]]:
        """Return their columns, by their titles."""


@runtime_checkable
class RowSentences(Protocol):
    """It says something of single rows."""

    def row_sentences(self, table: Table, row: TableRow) -> list[str]:
        """Return what is said after the finding about a row."""


@runtime_checkable
class Requires(Protocol):
    """It requires something of a table."""

    def failed(self, table: Table) -> list[str]:
        """Return a line for each requirement that a table does not meet."""


@runtime_checkable
class FurtherLines(Protocol):
    """It has lines of its own in CSV."""

    def lines(self, comparison: Comparison) -> list[dict[str, Any]]:
        """Return the lines below those of the tables."""


@runtime_checkable
class PicturesOfJobs(Protocol):
    """It shows pictures that jobs have drawn."""

    def pictures_of_jobs(self, table: Table, reader: Reader) -> list[JobPicture]:
        """Return them, for the page."""


@runtime_checkable
class BelowTables(Protocol):
    """It writes below a table, on a terminal and in Markdown."""

    def terminal(self, table: Table, out: TextIO) -> None:
        """Print what a terminal shows."""

    def markdown(self, table: Table) -> str:
        """Return what Markdown shows."""


@runtime_checkable
class OnPages(Protocol):
    """It has a part of a page below a table's pictures."""

    def page(self, table: Table, reader: Reader) -> str:
        """Return it as HTML."""
