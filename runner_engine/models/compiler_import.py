"""Imports torch's compiler, which transformers needs, and removes the empty cache folder left by
the import.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

NAME = "torch._dynamo"


def import_torch_compiler() -> None:
    if NAME in sys.modules:
        return
    before = _find_compiler_cache_folders()
    importlib.import_module(NAME)
    for folder in _find_compiler_cache_folders() - before:
        with suppress(OSError):  # it is not empty, or another process has removed it
            folder.rmdir()


def _find_compiler_cache_folders() -> set[Path]:
    return {*Path(tempfile.gettempdir()).glob("torchinductor_*")}
