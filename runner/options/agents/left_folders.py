"""The empty folders in which written programs run: a process that was killed leaves its own, the
next one removes it."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from runner_base.own_folders import remove_abandoned, temporary_folder

PREFIX = "runner-code-"
_swept = threading.Event()  # once in this process


@contextmanager
def own_folder() -> Iterator[str]:
    """Make an empty folder that is gone at the end of this block, or at the next start after a
    kill."""
    parent = Path(tempfile.gettempdir())
    if not _swept.is_set():
        _swept.set()
        with suppress(OSError):
            remove_abandoned(parent, PREFIX)
    with temporary_folder(parent, PREFIX) as folder:
        yield str(folder)
