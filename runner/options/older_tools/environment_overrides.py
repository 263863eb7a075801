"""Reads overrides from environment variables of older tools. If none is set, no further module is
imported.
"""

from __future__ import annotations

import os

from runner.options.older_tools.variable_names import NAMES


def variables_as_overrides(
    overrides: list[str], config: str = "config", config_folder: str | None = None
) -> list[str]:
    """Return overrides from older tools' environment variables, for keys that `overrides` does not
    set. Each one is printed on stderr.
    """
    if not any(os.environ.get(name) for name in NAMES):
        return []
    from runner.options.older_tools.variable_translation import load_variable_overrides

    return load_variable_overrides(overrides, config, config_folder)
