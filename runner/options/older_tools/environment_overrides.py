"""Reads overrides from environment variables of older tools."""

from __future__ import annotations

import os

from runner.options.older_tools.variable_names import NAMES


def read_variable_overrides(
    overrides: list[str], config: str = "config", config_folder: str | None = None
) -> list[str]:
    """Translate environment variables of older tools to overrides, and print each on stderr.

    Keys that `overrides` sets take precedence.
    """
    if not any(os.environ.get(name) for name in NAMES):
        return []
    from runner.options.older_tools.variable_translation import load_overrides_from_environment

    return load_overrides_from_environment(overrides, config, config_folder)
