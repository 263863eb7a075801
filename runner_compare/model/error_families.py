"""Groups of comparisons of a table, of which each shares one error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runner_compare.model.data import Table
from runner_compare.statistics import ALPHA


@dataclass(frozen=True)
class ErrorFamily:
    """Comparisons of which any is wrong in at most 5 % of the tables."""

    what: str
    comparisons: int


def rows_family(table: Table) -> list[ErrorFamily]:
    """Return the comparisons of whole rows, if there are any."""
    count = max((row.effect.comparisons for row in table.compared if row.effect), default=0)
    return [ErrorFamily("whole rows", count)] if count else []


def errors_record(families: Sequence[ErrorFamily]) -> dict[str, Any]:
    """Return the same as plain data."""
    return {
        "error_families": [
            {"comparisons_of": family.what, "comparisons": family.comparisons, "error": ALPHA}
            for family in families
        ]
    }
