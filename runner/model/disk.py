"""Room on the disk, asked for before anything is written there: a download from the hub, a checkpoint of noise."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path

from runner.errors import ConfigError
from runner.machine import MIB


def free_bytes(folder: Path) -> int:
    """Return what is free on the disk that folder is, or will be, on."""
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free


def require(needed: int, free: int, what: str, folder: Path, fix: str) -> None:
    """Raise ConfigError with both numbers unless that many bytes are free."""
    if needed > free:
        raise ConfigError(f"{what} needs {needed / MIB:,.1f} MiB in {folder}, {free / MIB:,.1f} MiB are free: {fix}")


def missing_bytes(
    files: Iterable[tuple[str, int | None]], patterns: Iterable[str], is_there: Callable[[str], bool]
) -> int:
    """Add up the files that would be fetched: those that match a pattern and are not there; unknown sizes are 0."""
    wanted = list(patterns)
    return sum(size or 0 for name, size in files if any(fnmatch(name, one) for one in wanted) and not is_there(name))


@lru_cache(maxsize=64)  # a job asks where its model is more than once
def check_download(key: str, name: str, revision: str | None, cache_dir: str | None, patterns: tuple[str, ...]) -> None:
    """Refuse a download that does not fit, where the hub says how large it is.

    What the hub refuses, and that it cannot be reached, is for the download itself to say: it may need no hub.
    """
    from huggingface_hub import HfApi, constants, try_to_load_from_cache

    try:
        info = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=10)
    except Exception:  # noqa: BLE001  # the hub's errors, and those of whichever HTTP client it uses
        return
    folder = Path(cache_dir or constants.HF_HUB_CACHE).expanduser().absolute()

    def is_there(file: str) -> bool:
        return isinstance(try_to_load_from_cache(name, file, cache_dir=folder, revision=info.sha), str | os.PathLike)

    sizes = [(sibling.rfilename, sibling.size) for sibling in info.siblings or []]
    fix = "make room, name a larger disk with model.cache_dir=FOLDER or HF_HOME, or use a smaller model"
    needed = missing_bytes(sizes, patterns, is_there)
    require(needed, free_bytes(folder), f"{key}={name}: the download", folder, fix)
