"""Numbers of tokens as keys take them: 512, or 4k for 4 · 1,024."""

from __future__ import annotations

import re
from collections.abc import Iterable

from runner_base import Takes, check

THOUSAND = 1024  # 1k: what windows and contexts of models are multiples of
WRITTEN = re.compile(r"(\d+)(k?)", re.IGNORECASE)


def token_count(value: str | int) -> int | None:
    """Return the number of tokens that a text such as 4k names; None if it names none."""
    found = WRITTEN.fullmatch(str(value).strip())
    if found is None:
        return None
    count, thousand = found.groups()
    return int(count) * (THOUSAND if thousand else 1)


def whole(value: str | int) -> int:
    """Return the number of tokens that a checked key names."""
    count = token_count(value)
    assert count is not None, "keys are checked first"
    return count


def token_counts(key: str, values: Iterable[str | int]) -> list[int]:
    """Return the numbers that a key lists, smallest first; ConfigError for what is no number, below
    1 or repeated."""
    given = [str(value) for value in values]
    shown = f"[{','.join(given)}]"
    counts = [token_count(value) for value in given]
    is_each = all(count is not None and count >= 1 for count in counts)
    check(is_each, key, shown, "give numbers of tokens from 1 on, such as 256 or 4k (4 · 1,024)")
    known = sorted(count for count in counts if count is not None)
    check(len(set(known)) == len(known), key, shown, "no number may be repeated")
    return known


def tokens_from(number: int, otherwise: str = "") -> Takes:
    """A number of tokens from `number` on, which may be written as 4k."""
    return Takes(
        lambda value: (token_count(value) or 0) >= number,
        f"must be {number} or more, such as 4k (4 · 1,024){otherwise}",
    )
