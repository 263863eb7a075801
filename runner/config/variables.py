"""Environment variables as overrides: those that an option reads, above the YAML and below the
command line."""

from __future__ import annotations

from typing import Any

from runner_base import load_object
from runner_base.plugins import own_options


def variables_as_overrides(
    overrides: list[str], config: str = "config", folder: str | None = None
) -> list[str]:
    """Return overrides from the environment for keys that the given ones do not set."""
    found: list[str] = []
    for name in own_options("variables"):
        read: Any = load_object("variables", name, object)
        found += read(overrides, config, folder)
    return found
