"""Room on the disk, asked for before anything is written there: a download from the hub, a checkpoint of noise."""

from __future__ import annotations

import shutil
from pathlib import Path

from runner.core.errors import ConfigError
from runner.core.machine import MIB


def free_bytes(folder: Path) -> int:
    """Return what is free on the disk that folder is, or will be, on."""
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free


def require(needed: int, free: int, what: str, folder: Path, fix: str) -> None:
    """Raise ConfigError with both numbers unless that many bytes are free."""
    if needed > free:
        raise ConfigError(f"{what} needs {needed / MIB:,.1f} MiB in {folder}, {free / MIB:,.1f} MiB are free: {fix}")


def check_download(key: str, name: str, needed: int, folder: Path) -> None:
    """Refuse a download that does not fit; the hub has said how large it is."""
    fix = "make room, name a larger disk with model.cache_dir=FOLDER or HF_HOME, or use a smaller model"
    require(needed, free_bytes(folder), f"{key}={name}: the download", folder, fix)
