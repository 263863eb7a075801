"""Spread of measurements: percentiles, interquartile range, and confidence interval of a
median.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import quantiles

ERROR = 0.05  # of an interval
RANKS = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def compute_percentiles(values: Iterable[float]) -> dict[str, float]:
    """Return the percentiles p50, p95 and p99, or an empty mapping without values.

    A percentile is the lowest value that this share of the values does not exceed.
    """
    ordered = sorted(values)
    return {name: ordered[math.ceil(rank * len(ordered)) - 1] for name, rank in RANKS.items() if ordered}


def compute_relative_spread(values: Sequence[float]) -> float:
    """Return the interquartile range divided by the median. Infinity if there are fewer than three values."""
    if len(values) < 3:
        return math.inf
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return (high - low) / middle if middle else math.inf


def compute_median_interval(values: Sequence[float], alpha: float = ERROR) -> tuple[float, float] | None:
    """Return the exact, distribution-free confidence interval of a median.

    Returns None for too few values. Its ends are measurements: of six, the lowest and the
    highest. Student's t does not hold for processes of a single job: where one run in ten is
    much slower, six often have none such (bench/compare/gates_null.py). In a ratio of two jobs
    that cancels.
    """
    from scipy.special import bdtr

    ordered, beyond = sorted(values), -1
    while bdtr(beyond + 1, len(ordered), 0.5) <= alpha / 2:
        beyond += 1
    return (ordered[beyond], ordered[-1 - beyond]) if beyond >= 0 else None


def compute_min_values_for_interval(alpha: float = ERROR) -> int:
    """Return how many measurements a confidence interval of their median needs at least."""
    return math.ceil(1 - math.log2(alpha))
