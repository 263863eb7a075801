"""All that a comparison shows, as plain data: its tables, and each part with its grids and
sentences."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from runner_base import Column, Picture
from runner_compare.model.data import Kept, Table
from runner_compare.statistics import Finding

Said = tuple[str, Finding | None]  # a sentence, with the finding that it words


@dataclass
class Comparison:
    """All that a comparison shows."""

    tables: list[Table]
    explain: bool = False  # whether a terminal explains the Pareto front
    # what sections have computed over tables, by their classes
    kept: dict[type, Any] = field(default_factory=dict)

    def of(self, kind: type[Kept]) -> Kept:
        """Return what a section keeps with the comparison; an empty one before it has computed
        anything."""
        kept: Kept = self.kept.setdefault(kind, kind())
        return kept


@dataclass
class Grid:
    """A table of a part."""

    columns: list[Column]
    title: str = ""
    classes: list[str] = field(default_factory=list)  # of its rows, which a page has colours for


@dataclass
class Shown:
    """A task's table or one over several tasks, with what is said about it."""

    title: str
    grids: list[Grid]
    sentences: list[Said] = field(default_factory=list)
    legend: str = ""
    runs: str = ""  # how many there are, in words
    conclusion: str = ""
    failed: list[str] = field(default_factory=list)  # the requirements that are not met
    table: Table | None = None  # of a task, whose differences are drawn
    is_headed: bool = True  # whether a terminal shows the title
    is_alone: bool = False  # whether it is shown in place of all others
    is_always_shown: bool = False  # even where another is shown alone
    figures: list[Picture] = field(default_factory=list)


def class_of(finding: Finding | None) -> str:
    """Return the class of a finding on a page, for its colour."""
    return "" if finding in (None, Finding.open) else str(finding)
