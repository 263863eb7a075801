"""What installed packages hand over by entry points: found by their metadata alone, imported when
it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import TypeVar

from runner_base.errors import ConfigError

T = TypeVar("T")

OF_RUNNER = "[runner"  # in the text of entry points that are worth reading


@dataclass(frozen=True)
class Package:
    """An installed package with entry points for us."""

    name: str
    version: str
    groups: Mapping[str, Mapping[str, str]]  # of entry points: MODULE:ATTRIBUTE by name

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@cache
def packages_for_us() -> tuple[Package, ...]:
    """Return the packages with entry points for us: of each name the first on the path, which is
    imported."""
    found: dict[str, Package] = {}
    for distribution in metadata.distributions():
        if OF_RUNNER in (distribution.read_text("entry_points.txt") or ""):
            groups: dict[str, dict[str, str]] = {}
            for entry in distribution.entry_points:
                # [extra] is what it needs installed
                groups.setdefault(entry.group, {})[entry.name] = entry.value.partition("[")[0].strip()
            found.setdefault(distribution.name, Package(distribution.name, distribution.version, groups))
    return tuple(found.values())


@cache
def entries(group: str) -> Mapping[str, str]:
    """Return the entry points of a group: MODULE:ATTRIBUTE by name."""
    found: dict[str, str] = {}
    for package in packages_for_us():
        for name, target in package.groups.get(group, {}).items():
            found.setdefault(name, target)
    return found


def load(group: str, name: str, kind: type[T]) -> T:
    """Import the object behind an entry point, which is of this class."""
    target = entries(group)[name]
    module, _, attribute = target.partition(":")
    loaded = getattr(importlib.import_module(module), attribute)
    if not isinstance(loaded, kind):
        raise ConfigError(
            f"{name} = {target} is no {kind.__name__}, but {type(loaded).__name__}",
            key=group,
            code="bad_value",
        )
    return loaded
