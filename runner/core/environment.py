"""Variables of the environment, by one rule: one that is set to nothing, or to spaces, is not set."""

from __future__ import annotations

import os


def variable(name: str, otherwise: str | None = None) -> str | None:
    """Return what a variable says, or the other value where it says nothing."""
    return os.environ.get(name, "").strip() or otherwise
