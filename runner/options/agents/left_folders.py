"""The empty folders in which written programs run: a process that was killed leaves its own, the
next one removes it.

Each folder is held by a lock for as long as its process lives, which the kernel gives up with the
process.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "runner-code-"
_swept = threading.Event()  # once in this process


@contextmanager
def own_folder() -> Iterator[str]:
    """Make an empty folder that is gone at the end of this block, or at the next start after a
    kill."""
    if not _swept.is_set():
        _swept.set()
        remove_left()
    folder, lock = _made()
    try:
        yield folder
    finally:
        _remove(Path(folder))
        os.close(lock)


def _made() -> tuple[str, int]:
    """Make a folder and its lock; another process may take it for one that was left, until it is
    locked."""
    while True:
        folder = tempfile.mkdtemp(prefix=PREFIX)
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue
        fcntl.flock(lock, fcntl.LOCK_EX)
        if Path(folder).is_dir():
            return folder, lock
        os.close(lock)


def remove_left() -> None:
    """Remove the folders of this user that no living process holds."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            if folder.is_symlink() or os.geteuid() not in (0, folder.stat().st_uid):
                continue
            folder.chmod(0o700)  # the program may have closed it
            lock = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(folder)
            finally:
                os.close(lock)


def _remove(folder: Path) -> None:
    """Remove a folder, even if its permissions were changed."""
    with suppress(OSError):
        folder.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)
