"""Hydra launchers and sweepers that are options of the runner, named by entry points."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from runner_base import load_plug_in_object
from runner_base.plugins import find_builtin_options

KINDS = ("launcher", "sweeper")


@dataclass(frozen=True)
class HydraOption:
    """A launcher or sweeper: hydra/launcher=NAME or hydra/sweeper=NAME, where NAME is the entry
    point's.

    Its class for Hydra is in hydra_plugins/runner.py, and is imported at its first use.
    """

    needs: tuple[str, ...]  # the modules of other packages without which there is no such choice
    # its keys, and those below which users may add their own
    settings: Callable[[], tuple[Any, tuple[str, ...]]]


def find_installed_option(kind: str, name: str) -> HydraOption | None:
    """Return the launcher or sweeper with this name. None if it or a required package is missing."""
    if name not in find_builtin_options(kind):
        return None
    option = load_plug_in_object(kind, name, HydraOption)
    return option if all(map(is_installed, option.needs)) else None


def list_installed_options(kind: str) -> list[str]:
    """Return the names of the launchers or sweepers whose packages are installed."""
    return [name for name in find_builtin_options(kind) if find_installed_option(kind, name) is not None]


def is_installed(package: str) -> bool:
    """Return whether a module can be found, without importing it."""
    with suppress(ImportError):  # the package that it is in cannot be imported
        return find_spec(package) is not None
    return False
