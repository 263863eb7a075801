"""Locked temporary folders with random names, removed without following symbolic links.

The kernel releases a lock when its process ends, so an unlocked folder belongs to a killed
process. Others with write access may place a link there: a link is never opened, emptied or
removed.
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
def create_temporary_folder(parent: Path, prefix: str, suffix: str = "") -> Iterator[Path]:
    """Create an empty folder that only its user can read, and remove it after the block."""
    folder, lock = _create_locked_folder(parent, prefix, suffix)
    try:
        yield folder
    finally:
        with suppress(OSError):
            _remove_opened_folder(folder, lock)
        os.close(lock)


def remove_abandoned_folders(parent: Path, prefix: str, suffix: str = "") -> list[Path]:
    """Remove this user's temporary folders whose processes were killed. Returns the folders still
    in use.
    """
    name = re.compile(f"{re.escape(prefix)}[0-9a-f]{{{2 * RANDOM_BYTES}}}{re.escape(suffix)}", re.DOTALL)
    in_use = []
    for folder in sorted(parent.iterdir()):
        if not name.fullmatch(folder.name):
            continue
        with suppress(OSError):
            if os.lstat(folder).st_uid == os.geteuid():
                _restore_owner_access(folder)
            lock = os.open(folder, NO_LINK)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove_user_owned(folder, lock)
            except BlockingIOError:
                in_use.append(folder)
            finally:
                os.close(lock)
    return in_use


def remove_folder(folder: Path) -> None:
    """Remove a folder of this user. Raises OSError for a link or another user's folder."""
    with suppress(FileNotFoundError):
        lock = os.open(folder, NO_LINK)
        try:
            _remove_user_owned(folder, lock)
        finally:
            os.close(lock)


def require_folder_owned_by_user(folder: Path) -> None:
    """Raise PermissionError if a path is a link or not a folder of this user."""
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise PermissionError(f"{folder} is not a folder of the current user")


def _create_locked_folder(parent: Path, prefix: str, suffix: str) -> tuple[Path, int]:
    """Create and lock a folder, and retry if another process removes it before it is locked."""
    while True:
        folder = parent / f"{prefix}{secrets.token_hex(RANDOM_BYTES)}{suffix}"
        folder.mkdir(mode=0o700)
        try:
            lock = os.open(folder, NO_LINK)
        except FileNotFoundError:
            continue
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_same_folder(folder, lock):
            return folder, lock
        os.close(lock)


def _is_same_folder(folder: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.lstat(folder), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _remove_user_owned(folder: Path, lock: int) -> None:
    if os.fstat(lock).st_uid != os.geteuid():
        raise PermissionError(f"{folder} belongs to another user")
    _remove_opened_folder(folder, lock)


def _remove_opened_folder(folder: Path, folder_descriptor: int) -> None:
    """Remove an opened folder. Raises FileNotFoundError if the path now refers to another folder."""
    if not _is_same_folder(folder, folder_descriptor):
        raise FileNotFoundError(f"{folder} is not the folder that was opened")
    with suppress(OSError):
        os.fchmod(folder_descriptor, 0o700)
    shutil.rmtree(folder, ignore_errors=True)


def _restore_owner_access(folder: Path) -> None:
    """Restore the owner's access to a folder. Links are not followed."""
    with suppress(OSError):
        if os.chmod in os.supports_follow_symlinks:
            folder.chmod(0o700, follow_symlinks=False)
            return
        entry = os.open(folder, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY)
        try:
            os.chmod(f"/proc/self/fd/{entry}", 0o700)
        finally:
            os.close(entry)
