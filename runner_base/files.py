"""Files that several processes share: locks, and files that are replaced, so that no reader sees a
part of one."""

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

from runner_base.errors import ConfigError, cannot_write

# a folder that only takes files, or some network disks
CANNOT_SYNC = (errno.EACCES, errno.EINVAL, errno.ENOTSUP)


def hold(file: Path, wait: bool = True) -> TextIO:
    """Lock a file until it is closed or this process dies; unlike a process id, a lock cannot be
    mistaken later."""
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
    """Lock a folder against other processes that would write into it; the lock ends with this
    process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                "another process is writing there; wait, or give another folder",
                key=key,
                value=folder,
                code="busy",
            ) from error
        yield
    finally:
        os.close(descriptor)


@contextmanager
def hold_briefly(folder: Path) -> Iterator[None]:
    """Wait for the lock of a folder, and hold it during a block of a few system calls."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
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


def replace_with(
    path: Path, make: Callable[[Path], object], with_folders: bool = True, durable: bool = False
) -> None:
    """Make a file or a link under a name that nobody else has, and move it into place atomically.

    `make` must fail where the name exists. `durable` waits until the disk has the file and its
    name: without it, a power cut may bring back the old file, or leave an empty one.
    """
    if with_folders:
        path.parent.mkdir(parents=True, exist_ok=True)
    # not the process's id: two containers, or two threads, may have the same one
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        make(fresh)
        if durable:
            sync(fresh)
        fresh.replace(path)
        if durable:
            sync(path.parent)
    except BaseException as error:
        if not isinstance(error, FileExistsError):  # then it is somebody else's
            fresh.unlink(missing_ok=True)
        raise


def replace_text(path: Path, text: str, with_folders: bool = True, durable: bool = False) -> None:
    """Replace a file atomically by one with this text, so that a reader sees the old one or the new
    one."""

    def write(fresh: Path) -> None:
        with fresh.open("x", encoding="utf-8") as file:
            file.write(text)

    replace_with(path, write, with_folders, durable)


def write_atomically(path: Path, text: str, key: str = "output_dir", durable: bool = False) -> None:
    """Replace a file in an existing folder by a text; an OutputError names the key of the
    folder."""
    try:
        replace_text(path, text, with_folders=False, durable=durable)
    except OSError as error:
        raise cannot_write(path, error, key) from error


def sync(path: Path) -> None:
    """Wait until the disk has a file's content, or a folder's names."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in CANNOT_SYNC:
            raise


def names_gguf_file(name: str) -> bool:
    """Whether a name is that of a .gguf file, in whichever letters its suffix is written."""
    return name.lower().endswith(".gguf")


def shared_folder(names: Iterable[str]) -> str:
    """Return the folder, with its last slash, below which several paths are; empty if there is
    none.

    Names that may be hub ids, such as OWNER/NAME, are not shortened.
    """
    distinct = {Path(name) for name in names}
    are_paths = all(path.is_absolute() for path in distinct) or all(
        names_gguf_file(path.name) for path in distinct
    )
    if len(distinct) < 2 or not are_paths or len({path.is_absolute() for path in distinct}) > 1:
        return ""
    common = os.path.commonpath([path.parent for path in distinct])
    return f"{common}{os.sep}" if common not in ("", ".", os.sep) else ""
