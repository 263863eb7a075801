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


def error_sentences(families: Sequence[ErrorFamily]) -> list[str]:
    """Say how often a table of equal rows says anything false; nothing where no family is known."""
    if not families:
        return []
    parts = [f"{family.what} ({family.comparisons})" for family in families]
    at_most = f"error rate of this table: at most {100 * ALPHA:.0f} %"
    if len(parts) == 1:
        return [f"{at_most} for {parts[0]}"]
    return [f"{at_most} for each of {', '.join(parts)}, {100 * ALPHA * len(parts):.0f} % together"]


def errors_record(families: Sequence[ErrorFamily]) -> dict[str, Any]:
    """Return the same as plain data."""
    return {
        "error_families": [
            {"comparisons_of": family.what, "comparisons": family.comparisons, "error": ALPHA}
            for family in families
        ]
    }
