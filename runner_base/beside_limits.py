"""How a value is written beside a limit: with so many digits that rounding does not put it on the
limit.

Rounding keeps the order of two numbers, but makes them equal where they are close: 2.127 MiB beside
a limit of `<2.13` would be shown as 2.13, and a reader would think that the limit was missed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol

MOST = 12  # further digits; what they do not tell apart differs by rounding errors


class Writer(Protocol):
    """Writes a value, with so many digits more than usual."""

    def __call__(self, value: float, more: int = 0, /) -> str:
        """Return the value as it is shown."""


def more_digits(values: Iterable[float], limit: float, write: Writer) -> int:
    """Return how many more digits than usual show on which side of a limit each value lies."""
    beside = [value for value in values if math.isfinite(value) and value != limit]
    for more in range(MOST + 1):
        shown_limit = _shown(write(limit, more))
        shown = [_shown(write(value, more)) for value in beside]
        sides = zip(shown, beside, strict=True)
        if all(one != shown_limit and (one > shown_limit) == (value > limit) for one, value in sides):
            return more
    return 0


def _shown(text: str) -> float:
    """Return the number that a reader sees."""
    return float(text.replace(",", "").replace("−", "-").removesuffix("%"))


def beside_limit(value: float, limit: float, write: Writer) -> str:
    """Return a value as it is written beside a limit that is shown as it was given."""
    return write(value, more_digits([value], limit, write))


def told_apart(value: float, limit: float, write: Writer) -> tuple[str, str]:
    """Return a value and a limit that was computed, both written with the same digits."""
    more = more_digits([value], limit, write)
    return write(value, more), write(limit, more)


def decimals(count: int) -> Writer:
    """Return what writes a value with so many decimals: 1,234.56 with two."""

    def write(value: float, more: int = 0, /) -> str:
        return f"{value:,.{count + more}f}"

    return write
