"""What installed packages hand over by entry points: found by their metadata alone, imported when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from runner_base.errors import ConfigError

if TYPE_CHECKING:
    from importlib.metadata import Distribution

T = TypeVar("T")

OF_RUNNER = "[runner"  # in the text of entry points that are worth reading


@cache
def distributions() -> tuple[tuple[str, Distribution], ...]:
    """Return the packages with entry points for us, each as name and version: a few milliseconds for all."""
    return tuple(_distributions())


def _distributions() -> Iterator[tuple[str, Distribution]]:
    from importlib import metadata

    seen = set()
    for distribution in metadata.distributions():
        if OF_RUNNER not in (distribution.read_text("entry_points.txt") or ""):  # most need no parsing
            continue
        metadata_of = distribution.metadata  # which is parsed each time
        name = metadata_of["Name"]
        if name not in seen:  # else an older copy further back on the path, which is not imported
            seen.add(name)
            yield f"{name} {metadata_of['Version']}", distribution


@cache
def entries(group: str) -> Mapping[str, str]:
    """Return the entry points of a group: MODULE:ATTRIBUTE by name."""
    found: dict[str, str] = {}
    for _, distribution in distributions():
        for entry in distribution.entry_points.select(group=group):
            found.setdefault(entry.name, entry.value)
    return found


def load(group: str, name: str, kind: type[T]) -> T:
    """Import the object behind an entry point, which is of this class."""
    place = entries(group)[name]
    module, _, attribute = place.partition(":")
    loaded = getattr(importlib.import_module(module), attribute)
    if not isinstance(loaded, kind):
        raise ConfigError(f"{group}: {name} = {place} is no {kind.__name__}, but {type(loaded).__name__}")
    return loaded
