"""torch's compiler, which nothing here uses: transformers imports it, and the import makes a folder
for what it compiles."""

from __future__ import annotations

import importlib
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

NAME = "torch._dynamo"


def import_compiler() -> None:
    """Import the compiler, and remove the empty folder that this leaves among the temporary
    files."""
    if NAME in sys.modules:
        return
    before = _cache_folders()
    importlib.import_module(NAME)
    for folder in _cache_folders() - before:
        with suppress(OSError):  # it is not empty, or another process has removed it
            folder.rmdir()


def _cache_folders() -> set[Path]:
    return {*Path(tempfile.gettempdir()).glob("torchinductor_*")}
