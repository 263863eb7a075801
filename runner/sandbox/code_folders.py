"""Temporary folders for generated programs. A later process removes the folders of killed
processes.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from runner_base.temp_folders import create_temporary_folder, remove_abandoned_folders

PREFIX = "runner-code-"
_swept = threading.Event()  # once in this process


@contextmanager
def create_temporary_code_folder() -> Iterator[str]:
    """Create a temporary folder and remove it on exit. Also removes the folders of killed processes."""
    parent = Path(tempfile.gettempdir())
    if not _swept.is_set():
        _swept.set()
        with suppress(OSError):
            remove_abandoned_folders(parent, PREFIX)
    with create_temporary_folder(parent, PREFIX) as folder:
        yield str(folder)
