"""The door of a package: a list of names, of which each is imported at its first use."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def at_first_use(package: str, places: Mapping[str, str], prefix: str | None = None) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package: it imports a name from the module in which `places`
    has it.

    `prefix` comes before each place; it is the package, if nothing else is said.
    """
    before = f"{package}." if prefix is None else prefix

    def value_of(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{before}{places[name]}"), name)
        setattr(sys.modules[package], name, value)  # the next time it is there
        return value

    return value_of
