"""Entry points of installed packages, found by metadata and imported at first use."""

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
class PluginPackage:
    """An installed package with entry points for the runner."""

    name: str
    version: str
    groups: Mapping[str, Mapping[str, str]]  # of entry points: MODULE:ATTRIBUTE by name

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@cache
def find_plugin_packages() -> tuple[PluginPackage, ...]:
    """Return the packages with runner entry points.

    Of packages with the same name, only the first on the path counts, since it is the one
    imported.
    """
    found: dict[str, PluginPackage] = {}
    for distribution in metadata.distributions():
        if OF_RUNNER in (distribution.read_text("entry_points.txt") or ""):
            groups: dict[str, dict[str, str]] = {}
            for entry in distribution.entry_points:
                # [extra] is what it needs installed
                groups.setdefault(entry.group, {})[entry.name] = entry.value.partition("[")[0].strip()
            found.setdefault(
                distribution.name, PluginPackage(distribution.name, distribution.version, groups)
            )
    return tuple(found.values())


@cache
def find_entry_points(group: str) -> Mapping[str, str]:
    """Return the entry points of a group as a mapping from name to MODULE:ATTRIBUTE."""
    found: dict[str, str] = {}
    for package in find_plugin_packages():
        for name, target in package.groups.get(group, {}).items():
            found.setdefault(name, target)
    return found


def load_entry_point(group: str, name: str, expected_class: type[T]) -> T:
    """Import the object of an entry point. Raises ConfigError if its type is not `expected_class`."""
    target = find_entry_points(group)[name]
    module, _, attribute = target.partition(":")
    loaded = getattr(importlib.import_module(module), attribute)
    if not isinstance(loaded, expected_class):
        raise ConfigError(
            f"{name} = {target} has the type {type(loaded).__name__} instead of {expected_class.__name__}",
            key=group,
            code="bad_value",
        )
    return loaded
