"""Temporary folders of this process: random names, held by a lock, removed without following links.

The kernel releases a lock when its process ends, so a folder without a lock was left by a killed
process. Whoever can write beside such a folder may put a link there: a link is never opened,
emptied or removed.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

RANDOM_BYTES = 8
NO_LINK = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY


@contextmanager
def temporary_folder(parent: Path, prefix: str, suffix: str = "") -> Iterator[Path]:
    """Make an empty folder that only its user can read; remove it at the end of the block."""
    folder, lock = _make_locked(parent, prefix, suffix)
    try:
        yield folder
    finally:
        with suppress(OSError):
            _remove(folder, lock)
        os.close(lock)


def remove_abandoned(parent: Path, prefix: str, suffix: str = "") -> list[Path]:
    """Remove this user's folders that killed processes left; return those that a process still
    holds."""
    name = re.compile(f"{re.escape(prefix)}[0-9a-f]{{{2 * RANDOM_BYTES}}}{re.escape(suffix)}", re.DOTALL)
    in_use = []
    for folder in sorted(parent.iterdir()):
        if not name.fullmatch(folder.name):
            continue
        with suppress(OSError):
            if os.lstat(folder).st_uid == os.geteuid():
                _open_to_owner(folder)
            lock = os.open(folder, NO_LINK)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove_own(folder, lock)
            except BlockingIOError:
                in_use.append(folder)
            finally:
                os.close(lock)
    return in_use


def remove_folder(folder: Path) -> None:
    """Remove a folder of this user, if it exists; raises OSError for a link or another's folder."""
    with suppress(FileNotFoundError):
        lock = os.open(folder, NO_LINK)
        try:
            _remove_own(folder, lock)
        finally:
            os.close(lock)


def require_own(folder: Path) -> None:
    """Raise PermissionError if a path is a link, or no folder of this user."""
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise PermissionError(f"{folder} is a link, or belongs to another user")


def _make_locked(parent: Path, prefix: str, suffix: str) -> tuple[Path, int]:
    """Another process may take the folder for an abandoned one until it is locked; then make
    another."""
    while True:
        folder = parent / f"{prefix}{secrets.token_hex(RANDOM_BYTES)}{suffix}"
        folder.mkdir(mode=0o700)
        try:
            lock = os.open(folder, NO_LINK)
        except FileNotFoundError:
            continue
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_same(folder, lock):
            return folder, lock
        os.close(lock)


def _is_same(folder: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.lstat(folder), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _remove_own(folder: Path, lock: int) -> None:
    if os.fstat(lock).st_uid != os.geteuid():
        raise PermissionError(f"{folder} belongs to another user")
    _remove(folder, lock)


def _remove(folder: Path, lock: int) -> None:
    """Remove the folder that was opened as `lock`, unless something else has its name now."""
    if not _is_same(folder, lock):
        raise FileNotFoundError(f"{folder} is not the folder that was opened")
    with suppress(OSError):
        os.fchmod(lock, 0o700)
    shutil.rmtree(folder, ignore_errors=True)


def _open_to_owner(folder: Path) -> None:
    """Let the owner enter a folder whose program has taken away that right; a link stays as it
    is."""
    with suppress(OSError):
        if os.chmod in os.supports_follow_symlinks:
            folder.chmod(0o700, follow_symlinks=False)
            return
        entry = os.open(folder, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY)
        try:
            os.chmod(f"/proc/self/fd/{entry}", 0o700)
        finally:
            os.close(entry)
