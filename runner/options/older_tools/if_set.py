"""Whether a variable of the older tools is set: most commands find none, and import nothing that
reads them."""

from __future__ import annotations

import os

from runner.options.older_tools.names import NAMES


def variables_as_overrides(
    overrides: list[str], config: str = "config", folder: str | None = None
) -> list[str]:
    """Return overrides from the environment for keys that the given ones do not set; each is
    printed on stderr."""
    if not any(os.environ.get(name) for name in NAMES):
        return []
    from runner.options.older_tools.variables import overrides_of_variables

    return overrides_of_variables(overrides, config, folder)
