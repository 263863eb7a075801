"""Reads overrides from environment variables. They override YAML files, and the command line overrides
them.
"""

from __future__ import annotations

from typing import Any

from runner_base import load_plug_in_object
from runner_base.plugins import find_builtin_options


def read_variable_overrides(
    overrides: list[str], config_name: str = "config", folder: str | None = None
) -> list[str]:
    """Return the overrides that environment variables define, except for keys that are already
    set.
    """
    found: list[str] = []
    for name in find_builtin_options("variables"):
        read: Any = load_plug_in_object("variables", name, object)
        found += read(overrides, config_name, folder)
    return found
