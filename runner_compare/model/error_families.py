"""Groups of comparisons that share one family-wise error rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runner_compare.model.data import Table
from runner_compare.statistics import ALPHA


@dataclass(frozen=True)
class ErrorFamily:
    """Comparisons that share one family-wise error rate.

    The probability of at least one wrong finding is at most 5 %.
    """

    what: str
    comparisons: int


def list_row_error_families(table: Table) -> list[ErrorFamily]:
    count = max((row.effect.comparisons for row in table.compared_rows if row.effect), default=0)
    return [ErrorFamily("whole rows", count)] if count else []


def error_families_record(families: Sequence[ErrorFamily]) -> dict[str, Any]:
    """Return error families as JSON data."""
    return {
        "error_families": [
            {"comparisons_of": family.what, "comparisons": family.comparisons, "error": ALPHA}
            for family in families
        ]
    }
