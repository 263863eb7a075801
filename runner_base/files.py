"""Locks files and folders, and replaces files atomically."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from runner_base.errors import ConfigError, convert_write_error

# a folder that only takes files, or some network disks
CANNOT_SYNC = (errno.EACCES, errno.EINVAL, errno.ENOTSUP)


def lock_file(file: Path, should_wait: bool = True) -> TextIO:
    """Lock a file until the returned object is closed or this process dies.

    Unlike a stored process id, a lock cannot belong to an unrelated later process.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists() and stat.S_ISFIFO(file.stat().st_mode):
        raise OSError(errno.EINVAL, "it is a pipe")  # opening it would block forever
    lock = file.open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if should_wait else fcntl.LOCK_NB))
    except OSError:
        lock.close()
        raise
    return lock


def is_locked(file: Path) -> bool:
    """Whether a living process has locked a file."""
    if not file.exists():
        return False
    try:
        lock_file(file, should_wait=False).close()
    except BlockingIOError:
        return True
    return False


@contextmanager
def lock_folder(folder: Path, key: str) -> Iterator[None]:
    """Lock a folder against other processes within this block. Raises ConfigError if it is already
    locked.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                "another process is writing to this folder. Wait for it, or choose another folder",
                key=key,
                value=folder,
                code="busy",
            ) from error
        yield
    finally:
        os.close(descriptor)


@contextmanager
def hold_folder_lock(folder: Path) -> Iterator[None]:
    """Wait for a folder's lock and hold it. Keep the block short, because other processes wait."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def get_user_cache_folder() -> Path | None:
    """Return the runner's folder in the user's cache, or None if it is not writable."""
    # without a home (an unnamed user in a container), "~" is not expanded
    folder = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "runner"
    if not folder.is_absolute():
        return None
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder if folder.is_dir() and os.access(folder, os.W_OK) else None


def replace_atomically(
    path: Path, create_file: Callable[[Path], object], make_parents: bool = True, durable: bool = False
) -> None:
    """Create a file or link under a unique temporary name, and move it into place atomically.

    `create_file` must fail if the name exists. `durable` waits until the disk has stored the file
    and its name; otherwise a power cut may restore the old file or leave an empty one.
    """
    if make_parents:
        path.parent.mkdir(parents=True, exist_ok=True)
    # not the process's id: two containers, or two threads, may have the same one
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        create_file(fresh)
        if durable:
            sync_to_disk(fresh)
        fresh.replace(path)
        if durable:
            sync_to_disk(path.parent)
    except BaseException as error:
        if not isinstance(error, FileExistsError):  # then it is somebody else's
            fresh.unlink(missing_ok=True)
        raise


def replace_text_file_atomically(
    path: Path, text: str, make_parents: bool = True, durable: bool = False
) -> None:
    """Replace a text file atomically: readers see either the old or the new content."""

    def write(fresh: Path) -> None:
        with fresh.open("x", encoding="utf-8") as file:
            file.write(text)

    replace_atomically(path, write, make_parents, durable)


def write_text_atomically(path: Path, text: str, key: str = "output_dir", durable: bool = False) -> None:
    """Replace a text file in an existing folder atomically. Raises OutputError with `key`."""
    try:
        replace_text_file_atomically(path, text, make_parents=False, durable=durable)
    except OSError as error:
        raise convert_write_error(path, error, key) from error


def sync_to_disk(path: Path) -> None:
    """Flush a file's content or a folder's entries to disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in CANNOT_SYNC:
            raise


def is_gguf_file_name(name: str) -> bool:
    return name.lower().endswith(".gguf")


def find_common_folder(paths: Iterable[str]) -> str:
    """Return the parent folder that all paths have in common, with a trailing slash. Empty if there is none.

    Names that may be hub ids, such as OWNER/NAME, have none.
    """
    distinct = {Path(name) for name in paths}
    are_paths = all(path.is_absolute() for path in distinct) or all(
        is_gguf_file_name(path.name) for path in distinct
    )
    if len(distinct) < 2 or not are_paths or len({path.is_absolute() for path in distinct}) > 1:
        return ""
    common = os.path.commonpath([path.parent for path in distinct])
    return f"{common}{os.sep}" if common not in ("", ".", os.sep) else ""
