"""Launchers and sweepers of Hydra that are options of the runner: what their entry points name."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from runner_base import load_object
from runner_base.plugins import own_options

KINDS = ("launcher", "sweeper")


@dataclass(frozen=True)
class HydraOption:
    """A launcher or a sweeper: hydra/launcher=NAME or hydra/sweeper=NAME, where NAME is that of its
    entry point.

    Its class for Hydra is in hydra_plugins/runner.py, and is imported at its first use.
    """

    needs: tuple[str, ...]  # the modules of other packages without which there is no such choice
    # its keys, and those below which users may add their own
    settings: Callable[[], tuple[Any, tuple[str, ...]]]


def installed_option(kind: str, name: str) -> HydraOption | None:
    """Return the option of a kind, launcher or sweeper; None if there is none, or if packages that
    it needs lack."""
    if name not in own_options(kind):
        return None
    option = load_object(kind, name, HydraOption)
    return option if all(map(is_installed, option.needs)) else None


def installed_options(kind: str) -> list[str]:
    """Return the names of the options of a kind whose packages are installed."""
    return [name for name in own_options(kind) if installed_option(kind, name) is not None]


def is_installed(package: str) -> bool:
    """Whether a module can be found, without importing it."""
    with suppress(ImportError):  # the package that it is in cannot be imported
        return find_spec(package) is not None
    return False
