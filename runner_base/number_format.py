"""Format numbers with enough digits to distinguish a value from its limit.

Rounding keeps the order of two numbers, but makes close ones equal: 2.127 MiB with a limit
of `<2.13` would be shown as 2.13, as if the limit was missed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol

MOST = 12  # further digits; what they do not tell apart differs by rounding errors


class NumberFormatter(Protocol):
    """Function that formats a number. `extra_digits` adds decimals to the usual count."""

    def __call__(self, value: float, extra_digits: int = 0, /) -> str: ...


def count_digits_to_distinguish_limit(
    values: Iterable[float], limit: float, format_number: NumberFormatter
) -> int:
    """Return how many extra digits are needed so that no rounded value equals the rounded limit.

    Returns 0 if no number of digits up to the maximum does.
    """
    beside = [value for value in values if math.isfinite(value) and value != limit]
    for more in range(MOST + 1):
        shown_limit = _parse_formatted_number(format_number(limit, more))
        shown = [_parse_formatted_number(format_number(value, more)) for value in beside]
        sides = zip(shown, beside, strict=True)
        if all(one != shown_limit and (one > shown_limit) == (value > limit) for one, value in sides):
            return more
    return 0


def _parse_formatted_number(text: str) -> float:
    return float(text.replace(",", "").replace("−", "-").removesuffix("%"))


def format_against_limit(value: float, limit: float, format_number: NumberFormatter) -> str:
    """Format a value so that it does not appear equal to its limit."""
    return format_number(value, count_digits_to_distinguish_limit([value], limit, format_number))


def format_value_and_limit(value: float, limit: float, format_number: NumberFormatter) -> tuple[str, str]:
    """Format a value and its limit with the same number of digits, enough to distinguish them."""
    more = count_digits_to_distinguish_limit([value], limit, format_number)
    return format_number(value, more), format_number(limit, more)


def fixed_decimals_formatter(num_decimals: int) -> NumberFormatter:
    def format_decimals(value: float, extra_digits: int = 0, /) -> str:
        return f"{value:,.{num_decimals + extra_digits}f}"

    return format_decimals
