"""Lazy imports for a package, which import each public name at its first use."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def create_lazy_getattr(
    package: str, modules_by_name: Mapping[str, str], prefix: str | None = None
) -> Callable[[str], Any]:
    """Return a module `__getattr__` that imports each name from its module at first use.

    `prefix` precedes each module name; the default is the package.
    """
    before = f"{package}." if prefix is None else prefix

    def load_attribute(name: str) -> Any:
        if name not in modules_by_name:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{before}{modules_by_name[name]}"), name)
        setattr(sys.modules[package], name, value)  # the next time it is there
        return value

    return load_attribute


class LazyModule:
    """Stands for a module that is imported when one of its attributes is used."""

    def __init__(self, module_name: str) -> None:
        self._module_name = module_name

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self._module_name), name)
