"""Pauses Python's garbage collector while many objects are made that stay."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def pause_garbage_collection() -> Iterator[None]:
    """Disable garbage collection in this block, because each collection would scan all new objects.

    At the end they count as old. Otherwise the next collection of young objects would scan them.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            if not gc.get_freeze_count():  # else somebody else keeps objects from being scanned
                gc.freeze()
                gc.unfreeze()
            gc.enable()
