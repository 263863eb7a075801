"""Data classes of a comparison's report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from runner_base import Column, Picture
from runner_compare.model.data import SectionData, Table
from runner_compare.statistics import Finding

SentenceWithFinding = tuple[str, Finding | None]  # a sentence, with the finding that it words


@dataclass(frozen=True)
class View:
    """Options that control the terminal output."""

    explain: bool = False  # findings with their figures, and how everything is decided
    all_columns: bool = False  # every column and every table, in whatever width they need
    plot: bool = False  # the differences with their intervals
    command: tuple[str, ...] = ("runner-compare",)  # with its sources and filters
    shown_at: str = ""  # the command or address that shows the runs in MLflow


@dataclass
class Comparison:
    """A complete comparison: its tables, and the results that each report section has computed."""

    tables: list[Table]
    view: View = field(default_factory=View)
    # what sections have computed over tables, by their classes
    kept: dict[type, Any] = field(default_factory=dict)

    def get_section_data(self, data_class: type[SectionData]) -> SectionData:
        """Return the data that a report section has stored for the whole comparison.

        If the section stored nothing, an empty object is created.
        """
        kept: SectionData = self.kept.setdefault(data_class, data_class())
        return kept


@dataclass
class TableGrid:
    """Columns of one printed table, with the table's title and row colours."""

    columns: list[Column]
    title: str = ""
    classes: list[str] = field(default_factory=list)  # of its rows, which a page has colours for


@dataclass
class ReportPart:
    """Part of the report: a table with the sentences about it."""

    title: str
    grids: Sequence[TableGrid]
    sentences: Sequence[SentenceWithFinding] = ()
    # what stands in their place where neither all columns nor an explanation is asked for
    short_grids: list[TableGrid] | None = None
    short_sentences: list[str] | None = None
    legend: str = ""
    runs: str = ""  # how many there are, in words
    conclusion: str = ""
    short_conclusion: str = ""  # of the format `table` alone
    failed: list[str] = field(default_factory=list)  # the requirements that are not met
    table: Table | None = None  # of a task, whose differences are drawn
    is_headed: bool = True  # whether a terminal shows the title
    is_alone: bool = False  # whether it is shown in place of all others
    is_always_shown: bool = False  # even where another is shown alone
    figures: list[Picture] = field(default_factory=list)


def css_class(finding: Finding | None) -> str:
    return "" if finding in (None, Finding.open) else str(finding)
