"""Value constraints of config keys, which are declared with `config_field` and checked by one function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from runner_base.errors import check_value


@dataclass(frozen=True)
class ValueConstraint:
    """Condition on a config key's value, and the message for an invalid value."""

    fits: Callable[[Any], bool]
    need: str  # as an error says it
    shown: Callable[[Any], object] = str


def at_least(minimum: float, hint: str = "") -> ValueConstraint:
    return ValueConstraint(lambda value: value >= minimum, f"must be {minimum} or more{hint}")


def greater_than(bound: float, unit: str = "") -> ValueConstraint:
    return ValueConstraint(lambda value: value > bound, f"must be more than {bound}{unit}")


def in_range(low: float, high: float, requirement: str = "") -> ValueConstraint:
    return ValueConstraint(lambda value: low <= value <= high, requirement or f"must lie in {low}..{high:,}")


def not_blank(requirement: str) -> ValueConstraint:
    """Constraint that a text is not blank."""
    return ValueConstraint(lambda text: bool(text.strip()), requirement, repr)


def check_config_values(group: str, config: Any) -> None:
    """Raise ConfigError for the first key whose value violates its constraint. The value None is
    accepted.
    """
    for item in fields(config):
        takes, value = item.metadata.get("takes"), getattr(config, item.name)
        if takes is not None and value is not None:
            check_value(takes.fits(value), f"{group}.{item.name}", takes.shown(value), takes.need)
