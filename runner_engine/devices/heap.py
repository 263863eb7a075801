"""Limits the freed memory that the C library keeps, and what Python's garbage collector looks
through.

glibc keeps freed blocks of up to 32 MiB for reuse, and blocks of slightly different sizes do not
fit into one another: int8 products of 1,024 tokens left 400 MiB behind in a model of 150 MiB, at
other times 50. If every block were mapped separately, these products would take twice the
processor's time.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from runner_base import machine

STEP_MIB = 32.0  # only a larger growth is worth a walk through the heap
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt
MAPPED_KIB = 1024  # while a model is loaded, blocks of this size and more are mapped separately
PIECES_KIB = 64  # the same threshold while a layer is read in many small pieces
MAX_MAPPED_KIB = 32 * 1024  # and afterwards: the highest that glibc chooses by itself


class Heap:
    """Gives freed memory back to the system whenever this process has grown by STEP_MIB."""

    def __init__(self) -> None:
        self.least_mib = machine.anonymous_mib()

    def trim_if_grown(self) -> None:
        """Give freed memory back if the process has grown; the check alone takes some 30 µs."""
        now_mib = machine.anonymous_mib()
        if now_mib > self.least_mib + STEP_MIB:
            machine.trim()
            now_mib = self.least_mib = machine.anonymous_mib()
        self.least_mib = min(self.least_mib, now_mib)


class Threshold:
    """The size from which on blocks are mapped separately, as it was last set here."""

    kib = MAX_MAPPED_KIB


@contextmanager
def large_blocks_mapped(least_kib: int = MAPPED_KIB) -> Iterator[None]:
    """Have every large block mapped separately in this block, so that it goes back to the system
    when it is freed.

    By default glibc raises its threshold with the blocks that were freed: then the memory that
    stays behind between blocks in use differs from run to run.

    least_kib: which blocks are large. PIECES_KIB where many pieces are made that stay, each with
    copies that are freed. torch aligns its blocks, and small ones take the room between them that
    aligning needs: then a copy does not fit where one of its size was freed, and the heap grows by
    most of all copies. Trimmed they take no memory, but a limit of a process's data counts them,
    and so does a system that promises no more memory than it has.
    """
    before_kib = Threshold.kib
    _set_threshold(least_kib)
    try:
        yield
    finally:
        _set_threshold(before_kib)
        if before_kib == MAX_MAPPED_KIB:
            _set(M_TRIM_THRESHOLD, 2 * MAX_MAPPED_KIB)
            machine.trim()


class Frozen:
    """Who has frozen the objects that exist: counting them takes long, so it is done once."""

    here = False  # a block of collecting_only_new is under way
    elsewhere = False  # for as long as this process lives


@contextmanager
def collecting_only_new() -> Iterator[None]:
    """Have Python's garbage collector pass over the objects that exist already, in this block.

    Libraries and a model are hundreds of thousands of objects, and no thread multiplies while it
    looks through them.
    """
    if not (Frozen.here or Frozen.elsewhere):
        Frozen.elsewhere = bool(gc.get_freeze_count())
    # else somebody else decides when they are looked at again
    is_first = not (Frozen.here or Frozen.elsewhere)
    if is_first:
        gc.freeze()
        Frozen.here = True
    try:
        yield
    finally:
        if is_first:
            gc.unfreeze()
            Frozen.here = False


def _set_threshold(kib: int) -> None:
    _set(M_MMAP_THRESHOLD, kib)
    Threshold.kib = kib


def _set(what: int, size_kib: int) -> None:
    """Set a parameter of the C library; nothing happens if it is not glibc."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(what, size_kib << 10)
