"""Formats sentences on the family-wise error rate of the findings in a table."""

from __future__ import annotations

from collections.abc import Sequence

from runner_compare.model.error_families import ErrorFamily
from runner_compare.statistics import ALPHA


def format_error_rate_sentences(families: Sequence[ErrorFamily]) -> list[str]:
    if not families:
        return []
    parts = [f"{family.what} ({family.comparisons})" for family in families]
    at_most = f"at most {100 * ALPHA:.0f} % of tables like this have a wrong finding"
    if len(parts) == 1:
        return [f"{at_most} about {parts[0]}."]
    return [
        f"{at_most} about each of {', '.join(parts)}. "
        f"At most {100 * ALPHA * len(parts):.0f} % have a wrong finding about any of these."
    ]
