"""How far measurements are apart: percentiles, the distance of quartiles, and the interval of a
median."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import quantiles

ERROR = 0.05  # of an interval
RANKS = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def percentiles(values: Iterable[float]) -> dict[str, float]:
    """Return p50, p95 and p99: the lowest value that this share of the values does not exceed;
    empty without values."""
    ordered = sorted(values)
    return {name: ordered[math.ceil(rank * len(ordered)) - 1] for name, rank in RANKS.items() if ordered}


def relative_spread(values: Sequence[float]) -> float:
    """Return the distance of the quartiles as a share of the median; infinity for fewer than three
    values."""
    if len(values) < 3:
        return math.inf
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return (high - low) / middle if middle else math.inf


def median_interval(values: Sequence[float], alpha: float = ERROR) -> tuple[float, float] | None:
    """Return the exact interval of the median of independent measurements, whatever their noise is;
    None for too few of them.

    Its ends are measurements: of six, the lowest and the highest. Student's t would not do for
    processes of a single job: where one run in ten is much slower, six often have none such
    (bench/compare/gates_null.py). Of a ratio of two jobs that cancels.
    """
    from scipy.special import bdtr

    ordered, beyond = sorted(values), -1
    while bdtr(beyond + 1, len(ordered), 0.5) <= alpha / 2:
        beyond += 1
    return (ordered[beyond], ordered[-1 - beyond]) if beyond >= 0 else None


def fewest_with_interval(alpha: float = ERROR) -> int:
    """Return how many measurements have an interval of their median: of fewer, all may lie on one
    side of it."""
    return math.ceil(1 - math.log2(alpha))
