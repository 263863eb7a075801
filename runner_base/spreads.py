"""How far measurements are apart: percentiles, and the distance of quartiles."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import quantiles

RANKS = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def percentiles(values: Iterable[float]) -> dict[str, float]:
    """Return p50, p95 and p99: the lowest value that this share of the values does not exceed;
    empty without values."""
    ordered = sorted(values)
    return {
        name: ordered[math.ceil(rank * len(ordered)) - 1] for name, rank in RANKS.items() if ordered
    }


def relative_spread(values: Sequence[float]) -> float:
    """Return the distance of the quartiles as a share of the median; infinity for fewer than three
    values."""
    if len(values) < 3:
        return math.inf
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return (high - low) / middle if middle else math.inf
