"""A feature of the comparison: what it reads, and what it adds to tables, sentences, the record and the page.

Packages add sections of their own by entry points of the group `runner_compare.sections`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from runner_base import Column, doors
from runner_compare.data import Run, Table
from runner_compare.pictures import JobPicture
from runner_compare.reader import Reader

GROUP = "runner_compare.sections"


class Section:
    """What one feature adds; what a subclass leaves out adds nothing."""

    stem = ""  # of the files of its pictures, which are numbered

    def named(self, runs: Sequence[Run], reader: Reader) -> Sequence[Run]:
        """Return the runs with what names teams in words (--teams)."""
        return runs

    def stands_for(self, key: str) -> bool:
        """Whether what `named` has added to runs takes the place of this key."""
        return False

    def add(self, table: Table, reader: Reader) -> None:
        """Read what the section shows, and keep it in the table under the section's class."""

    def tables(self, table: Table) -> dict[str, list[Column]]:
        """Return the columns of further tables below a task's, by their titles."""
        return {}

    def across(self, tables: Sequence[Table]) -> dict[str, list[Column]]:
        """Return the columns of tables over several tasks, by their titles."""
        return {}

    def record(self, table: Table) -> dict[str, Any]:
        """Return further keys of a table in JSON."""
        return {}

    def pictures(self, table: Table) -> list[JobPicture]:
        """Return pictures that are saved as files of their own and shown on the page."""
        return []

    def pictures_of_jobs(self, table: Table, reader: Reader) -> list[JobPicture]:
        """Return pictures that jobs have drawn, for the page."""
        return []


@cache
def added_sections() -> tuple[Section, ...]:
    """Return the sections of installed packages, in the order of their names."""
    return tuple(doors.load(GROUP, name, Section) for name in sorted(doors.entries(GROUP)))
