"""Finds the runner's Hydra launchers and sweepers, which are options registered by entry points."""

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
    """A Hydra launcher or sweeper that an installed package provides through an entry point.

    Its class for Hydra is in hydra_plugins/runner.py, and is imported at its first use.
    """

    needs: tuple[str, ...]  # the modules of other packages without which there is no such choice
    # its keys, and those below which users may add their own
    settings: Callable[[], tuple[Any, tuple[str, ...]]]


def find_installed_option(plugin_kind: str, name: str) -> HydraOption | None:
    """Return the launcher or sweeper with this name. None if the option or a package that it requires is
    missing.
    """
    if name not in find_builtin_options(plugin_kind):
        return None
    option = load_plug_in_object(plugin_kind, name, HydraOption)
    return option if all(map(is_module_installed, option.needs)) else None


def list_installed_option_names(plugin_kind: str) -> list[str]:
    return [
        name
        for name in find_builtin_options(plugin_kind)
        if find_installed_option(plugin_kind, name) is not None
    ]


def is_module_installed(module_name: str) -> bool:
    with suppress(ImportError):  # the package that it is in cannot be imported
        return find_spec(module_name) is not None
    return False
