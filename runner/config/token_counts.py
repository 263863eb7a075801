"""Token counts in config keys: 512, or 4k for 4 · 1,024."""

from __future__ import annotations

import re
from collections.abc import Iterable

from runner_base import ValueConstraint, check_value

THOUSAND = 1024  # 1k: what windows and contexts of models are multiples of
WRITTEN = re.compile(r"(\d+)(k?)", re.IGNORECASE)


def parse_token_count(value: str | int) -> int | None:
    """Return the number of tokens in a text such as 4k, or None if it has another form."""
    found = WRITTEN.fullmatch(str(value).strip())
    if found is None:
        return None
    count, thousand = found.groups()
    return int(count) * (THOUSAND if thousand else 1)


def require_token_count(value: str | int) -> int:
    """Return the number of tokens of a key that has been checked."""
    count = parse_token_count(value)
    assert count is not None, "keys are checked first"
    return count


def parse_token_counts(key: str, values: Iterable[str | int]) -> list[int]:
    """Return a key's numbers of tokens, smallest first. ConfigError for no number, one below 1, or
    repeated ones.
    """
    given = [str(value) for value in values]
    shown = f"[{','.join(given)}]"
    counts = [parse_token_count(value) for value in given]
    is_each = all(count is not None and count >= 1 for count in counts)
    check_value(is_each, key, shown, "give token counts of at least 1, such as 256 or 4k (4 · 1,024)")
    known = sorted(count for count in counts if count is not None)
    check_value(len(set(known)) == len(known), key, shown, "no number may be repeated")
    return known


def token_count_of_at_least(min_value: int, message_suffix: str = "") -> ValueConstraint:
    """Return a check for a number of tokens of at least `min_value`, which may be written as 4k."""
    return ValueConstraint(
        lambda value: (parse_token_count(value) or 0) >= min_value,
        f"must be {min_value} or more, such as 4k (4 · 1,024){message_suffix}",
    )
