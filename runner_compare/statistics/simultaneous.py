"""The interval beside a decision: with those of the other rows it holds together, and it never
contradicts the decision.

The rows of a table share an error of 5 %. An interval at that share (Bonferroni) is one of a set
that contain all true differences together. The decisions are Holm's, which give the share of rows
that are decided to the others: where the interval and the decision disagree, its end moves to the
side that the decision is on. Then a row that is decided may miss its own truth in a fifth of its
share only, and all intervals together hold in 94 % or more (bench/compare/simultaneous_null.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

SPARED = 5  # the part of its share of the error that a decided row keeps is one in so many
NEAREST = 0.02  # of the distance from the estimate: an end that moves stays so far from the point

Point = tuple[float, bool]  # a value, and whether the decision excludes it


def interval_beside(ends: tuple[float, float], value: float, points: Iterable[Point]) -> tuple[float, float]:
    """Return the ends moved so that the interval contains just those points that are not
    excluded."""
    low, high = min(ends[0], value), max(ends[1], value)
    excluded = []
    for point, is_excluded in points:
        if is_excluded and point != value:
            excluded.append(point)
        else:
            low, high = min(low, point), max(high, point)
    for point in excluded:
        near = point + NEAREST * (value - point)
        if near == point:
            near = math.nextafter(point, value)
        if point < value:
            low = low if low > point else near
        else:
            high = high if high < point else near
    return low, high
