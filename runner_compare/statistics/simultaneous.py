"""Simultaneous confidence intervals of a table that never contradict the table's decisions.

The rows of a table share an error of 5 %. An interval at that part of the error
(Bonferroni) is one of a set that contain all true differences together. The decisions are
Holm's, which give the error of decided rows to the others: where the interval and the
decision disagree, its end moves to the side of the decision. Then a decided row may miss
its own truth in a fifth of its part of the error only, and all intervals together hold in
94 % or more (bench/compare/simultaneous_null.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

SPARED = 5  # the part of its share of the error that a decided row keeps is one in so many
NEAREST = 0.02  # of the distance from the estimate: an end that moves stays so far from the point

TestedValue = tuple[float, bool]  # a value, and whether the decision excludes it


def align_interval_with_decision(
    interval_ends: tuple[float, float], estimate: float, tested_values: Iterable[TestedValue]
) -> tuple[float, float]:
    """Adjust an interval so that it excludes all rejected values and includes the other tested values."""
    low, high = min(interval_ends[0], estimate), max(interval_ends[1], estimate)
    excluded = []
    for point, is_excluded in tested_values:
        if is_excluded and point != estimate:
            excluded.append(point)
        else:
            low, high = min(low, point), max(high, point)
    for point in excluded:
        near = point + NEAREST * (estimate - point)
        if near == point:
            near = math.nextafter(point, estimate)
        if point < estimate:
            low = low if low > point else near
        else:
            high = high if high < point else near
    return low, high
