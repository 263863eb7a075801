"""Render the error rate of a table's statements."""

from __future__ import annotations

from collections.abc import Sequence

from runner_compare.model.error_families import ErrorFamily
from runner_compare.statistics import ALPHA


def error_sentences(families: Sequence[ErrorFamily]) -> list[str]:
    """Return a sentence on the table's error rate under equality; [] without error families."""
    if not families:
        return []
    parts = [f"{family.what} ({family.comparisons})" for family in families]
    at_most = f"error rate of this table: at most {100 * ALPHA:.0f} %"
    if len(parts) == 1:
        return [f"{at_most} for {parts[0]}"]
    return [f"{at_most} for each of {', '.join(parts)}, {100 * ALPHA * len(parts):.0f} % together"]
