"""For a forked process: entry points are read anew."""

from __future__ import annotations

import importlib


def forget_entry_points() -> None:
    """Empty what the process has kept of the entry points of installed packages."""
    for reader in ("runner_base.entry_points", "runner_base.plugins"):
        for value in vars(importlib.import_module(reader)).values():
            if callable(clear := getattr(value, "cache_clear", None)):
                clear()
