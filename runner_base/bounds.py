"""What values a key of the schema takes: declared beside the key by `setting`, and checked by one
function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from runner_base.errors import check


@dataclass(frozen=True)
class Takes:
    """What values a key takes."""

    fits: Callable[[Any], bool]
    need: str  # as an error says it
    shown: Callable[[Any], object] = str


def least(number: float, otherwise: str = "") -> Takes:
    return Takes(lambda value: value >= number, f"must be {number} or more{otherwise}")


def above(number: float, unit: str = "") -> Takes:
    """A number that is larger."""
    return Takes(lambda value: value > number, f"must be more than {number}{unit}")


def within(low: float, high: float, need: str = "") -> Takes:
    """A number in a range, with both ends."""
    return Takes(lambda value: low <= value <= high, need or f"must lie in {low}..{high:,}")


def filled(need: str) -> Takes:
    """A text that is not blank."""
    return Takes(lambda text: bool(text.strip()), need, repr)


def check_keys(group: str, config: Any) -> None:
    """Raise ConfigError for the first key that has a value which it does not take; null passes."""
    for item in fields(config):
        takes, value = item.metadata.get("takes"), getattr(config, item.name)
        if takes is not None and value is not None:
            check(takes.fits(value), f"{group}.{item.name}", takes.shown(value), takes.need)
