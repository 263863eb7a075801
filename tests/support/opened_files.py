"""Which files this process has open."""

from __future__ import annotations

import os
from pathlib import Path


def opened(folder: Path) -> list[str]:
    """Return the files below a folder that this process has open, also those that are gone."""
    numbers = os.listdir("/proc/self/fd")
    links = (Path("/proc/self/fd", number) for number in numbers)
    return [
        name for name in (os.readlink(it) for it in links if it.is_symlink()) if name.startswith(f"{folder}/")
    ]
