"""Overrides from environment variables of older tools. Without such variables nothing else is
imported.
"""

from __future__ import annotations

import os

from runner.options.older_tools.variable_names import NAMES


def variables_as_overrides(
    overrides: list[str], config: str = "config", folder: str | None = None
) -> list[str]:
    """Return overrides from environment variables for keys that the given ones do not set. Prints
    each on stderr.
    """
    if not any(os.environ.get(name) for name in NAMES):
        return []
    from runner.options.older_tools.variable_translation import load_variable_overrides

    return load_variable_overrides(overrides, config, folder)
