"""Memory that was freed and that the C library keeps, kept small.

glibc keeps freed blocks of up to 32 MiB for later, and blocks of slightly different sizes do not fit into one another:
int8 products of 1,024 tokens left 400 MiB behind in a model of 150 MiB, at other times 50. To have every block mapped
by itself would make these products take twice the processor's time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from runner.core import machine

STEP_MIB = 32.0  # more than this is worth the walk through the heap
EVERY_S = 0.02  # while a model is loaded


class Heap:
    """Gives freed memory back whenever this process has grown by so much."""

    def __init__(self) -> None:
        self.least_mib = machine.anonymous_mib()

    def look(self) -> None:
        """See how much it has grown; a look takes some 30 µs."""
        now_mib = machine.anonymous_mib()
        if now_mib > self.least_mib + STEP_MIB:
            machine.trim()
            now_mib = self.least_mib = machine.anonymous_mib()
        self.least_mib = min(self.least_mib, now_mib)


@contextmanager
def kept_small() -> Iterator[None]:
    """Look again and again, from a thread, while something runs that cannot be asked to."""
    heap, is_over = Heap(), threading.Event()

    def watch() -> None:
        while not is_over.wait(EVERY_S):
            heap.look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
