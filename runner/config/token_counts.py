"""Parses token counts in config keys, such as 512 or 4k (4 · 1,024)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from runner_base import ValueConstraint, check_value

THOUSAND = 1024  # 1k: what windows and contexts of models are multiples of
WRITTEN = re.compile(r"(\d+)(k?)", re.IGNORECASE)


def parse_token_count(value: str | int) -> int | None:
    """Parse a token count such as 512 or 4k. Returns None for any other text."""
    found = WRITTEN.fullmatch(str(value).strip())
    if found is None:
        return None
    count, thousand = found.groups()
    return int(count) * (THOUSAND if thousand else 1)


def parse_checked_token_count(value: str | int) -> int:
    """Parse a token count that the config has already validated."""
    count = parse_token_count(value)
    assert count is not None, "keys are checked first"
    return count


def parse_token_counts(key: str, values: Iterable[str | int]) -> list[int]:
    """Parse a key's token counts and sort them in ascending order. Raises ConfigError for invalid,
    repeated or non-positive counts.
    """
    given = [str(value) for value in values]
    shown = f"[{','.join(given)}]"
    counts = [parse_token_count(value) for value in given]
    is_each = all(count is not None and count >= 1 for count in counts)
    check_value(is_each, key, shown, "give token counts of at least 1, such as 256 or 4k (4 · 1,024)")
    known = sorted(count for count in counts if count is not None)
    check_value(len(set(known)) == len(known), key, shown, "no number may be repeated")
    return known


def require_min_token_count(min_value: int, message_suffix: str = "") -> ValueConstraint:
    return ValueConstraint(
        lambda value: (parse_token_count(value) or 0) >= min_value,
        f"must be at least {min_value} tokens, such as 4k (4 · 1,024){message_suffix}",
    )
