"""Imports torch's compiler, which transformers needs, without leaving its cache folder behind."""

from __future__ import annotations

import importlib
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

NAME = "torch._dynamo"


def import_compiler() -> None:
    """Import torch's compiler, and remove the empty temporary folder that the import creates."""
    if NAME in sys.modules:
        return
    before = _find_cache_folders()
    importlib.import_module(NAME)
    for folder in _find_cache_folders() - before:
        with suppress(OSError):  # it is not empty, or another process has removed it
            folder.rmdir()


def _find_cache_folders() -> set[Path]:
    return {*Path(tempfile.gettempdir()).glob("torchinductor_*")}
