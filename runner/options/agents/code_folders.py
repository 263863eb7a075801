"""Temporary folders for generated programs. If a process is killed, the next process removes the
folder that it left.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from runner_base.temp_folders import remove_abandoned_folders, temporary_folder

PREFIX = "runner-code-"
_swept = threading.Event()  # once in this process


@contextmanager
def make_code_folder() -> Iterator[str]:
    """Make an empty folder that is removed when the context ends, or after a kill by a later process."""
    parent = Path(tempfile.gettempdir())
    if not _swept.is_set():
        _swept.set()
        with suppress(OSError):
            remove_abandoned_folders(parent, PREFIX)
    with temporary_folder(parent, PREFIX) as folder:
        yield str(folder)
