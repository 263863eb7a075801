"""Files that several processes share: locks, and files that are replaced, so that no reader sees a part of one."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from runner.core.errors import ConfigError, cannot_write


def hold(file: Path, wait: bool = True) -> TextIO:
    """Lock a file until it is closed or this process dies; unlike a process id, a lock cannot be mistaken later."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists() and stat.S_ISFIFO(file.stat().st_mode):
        raise OSError(errno.EINVAL, "it is a pipe")  # opening it would block forever
    lock = file.open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        lock.close()
        raise
    return lock


def is_held(file: Path) -> bool:
    """Whether a living process has locked a file."""
    if not file.exists():
        return False
    try:
        hold(file, wait=False).close()
    except BlockingIOError:
        return True
    return False


@contextmanager
def hold_folder(folder: Path, key: str) -> Iterator[None]:
    """Lock a folder against other processes that would write into it; the lock ends with this process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"{key}={folder}: another process is writing there; wait, or give another folder"
            ) from error
        yield
    finally:
        os.close(descriptor)


def user_cache() -> Path | None:
    """Return the runner's folder in the user's cache; None where nothing can be written there."""
    # without a home (an unnamed user in a container), "~" is not expanded
    folder = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "runner"
    if not folder.is_absolute():
        return None
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder if folder.is_dir() and os.access(folder, os.W_OK) else None


def replace_with(path: Path, make: Callable[[Path], object], with_folders: bool = True) -> None:
    """Make a file or a link under a name of this process's own, and move it into place atomically."""
    if with_folders:
        path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    fresh.unlink(missing_ok=True)
    try:
        make(fresh)
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, text: str, key: str = "output_dir") -> None:
    """Write a file into an existing folder so that a reader sees the old text or the new one, never a part."""
    try:
        replace_with(path, lambda fresh: fresh.write_text(text, encoding="utf-8"), with_folders=False)
    except OSError as error:
        raise cannot_write(path, error, key) from error


def shared_folder(names: Iterable[str]) -> str:
    """Return the folder, with its last slash, below which several paths are; empty if there is none.

    Names that may be hub ids, such as OWNER/NAME, are not shortened.
    """
    distinct = {Path(name) for name in names}
    are_paths = all(path.is_absolute() for path in distinct) or all(path.suffix == ".gguf" for path in distinct)
    if len(distinct) < 2 or not are_paths or len({path.is_absolute() for path in distinct}) > 1:
        return ""
    common = os.path.commonpath([path.parent for path in distinct])
    return f"{common}{os.sep}" if common not in ("", ".", os.sep) else ""
