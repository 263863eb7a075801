"""Memory that was freed and that the C library keeps, kept small.

glibc keeps freed blocks of up to 32 MiB for later, and blocks of slightly different sizes do not fit into one another:
int8 products of 1,024 tokens left 400 MiB behind in a model of 150 MiB, at other times 50. To have every block mapped
by itself would make these products take twice the processor's time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from runner.core import machine

STEP_MIB = 32.0  # more than this is worth the walk through the heap
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt
MAPPED_MIB = 1  # blocks from here on are mapped by themselves while a model is loaded
MOST_MAPPED_MIB = 32  # and afterwards from here on, which is as far as glibc goes by itself


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
    """Let every large block be mapped by itself while something runs, so that it goes back as soon as it is freed.

    Left to itself the C library does so at first, and less and less the more was freed: what then stays behind between
    blocks that are in use differs from run to run.
    """
    _set(M_MMAP_THRESHOLD, MAPPED_MIB)
    try:
        yield
    finally:
        _set(M_MMAP_THRESHOLD, MOST_MAPPED_MIB)
        _set(M_TRIM_THRESHOLD, 2 * MOST_MAPPED_MIB)
        machine.trim()


def _set(what: int, size_mib: int) -> None:
    """Tell the C library; nothing happens where it is not glibc."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(what, size_mib << 20)
