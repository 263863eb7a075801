"""Limits the freed memory that glibc retains, and the objects that Python's garbage collector
scans.

glibc keeps freed blocks of up to 32 MiB for reuse, and blocks of slightly different sizes do
not fit into one another: int8 matmuls of 1,024 tokens left 400 MiB behind in a model of 150
MiB, at other times 50. If every block were mapped separately, these matmuls would take twice
the processor's time.
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


class HeapTrimmer:
    """Returns freed memory to the operating system each time this process has grown by STEP_MIB."""

    def __init__(self) -> None:
        self.least_mib = machine.anonymous_rss_mib()

    def release_freed_memory_if_grown(self) -> None:
        """Return freed memory to the operating system if the process has grown.

        The check takes about 30 µs.
        """
        now_mib = machine.anonymous_rss_mib()
        if now_mib > self.least_mib + STEP_MIB:
            machine.release_free_memory()
            now_mib = self.least_mib = machine.anonymous_rss_mib()
        self.least_mib = min(self.least_mib, now_mib)


class MmapThreshold:
    """Block size in KiB above which malloc maps each block separately, as set by this module."""

    kib = MAX_MAPPED_KIB


@contextmanager
def use_mmap_for_large_blocks(min_kib: int = MAPPED_KIB) -> Iterator[None]:
    """Context in which malloc maps large blocks separately. Freed blocks then leave the process.

    By default glibc raises its threshold with the blocks that were freed: then the memory that
    stays behind between blocks in use differs from run to run.  min_kib: size of a large block.
    PIECES_KIB suits code that makes many small blocks that stay, each with copies that are freed.
    torch aligns its blocks, and small ones take the room between them that aligning needs: then a
    copy does not fit where one of its size was freed, and the heap grows by most of all copies.
    Trimmed they take no memory, but a limit of a process's data counts them, and so does a system
    that promises no more memory than it has.
    """
    before_kib = MmapThreshold.kib
    _set_mmap_threshold(min_kib)
    try:
        yield
    finally:
        _set_mmap_threshold(before_kib)
        if before_kib == MAX_MAPPED_KIB:
            _call_mallopt(M_TRIM_THRESHOLD, 2 * MAX_MAPPED_KIB)
            machine.release_free_memory()


class GcFreezeState:
    """Whether existing Python objects are frozen for garbage collection, and by which code.

    Stored because counting frozen objects is slow.
    """

    here = False  # a block of collecting_only_new is under way
    elsewhere = False  # for as long as this process lives


@contextmanager
def skip_existing_objects_in_gc() -> Iterator[None]:
    """Context in which Python's garbage collector skips all objects that already exist.

    Libraries and a model are hundreds of thousands of objects, and no thread multiplies while the
    collector scans them.
    """
    if not (GcFreezeState.here or GcFreezeState.elsewhere):
        GcFreezeState.elsewhere = bool(gc.get_freeze_count())
    # else somebody else decides when they are looked at again
    is_first = not (GcFreezeState.here or GcFreezeState.elsewhere)
    if is_first:
        gc.freeze()
        GcFreezeState.here = True
    try:
        yield
    finally:
        if is_first:
            gc.unfreeze()
            GcFreezeState.here = False


def _set_mmap_threshold(kib: int) -> None:
    _call_mallopt(M_MMAP_THRESHOLD, kib)
    MmapThreshold.kib = kib


def _call_mallopt(parameter: int, size_kib: int) -> None:
    """Set a parameter of malloc. Does nothing if the C library is not glibc."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(parameter, size_kib << 10)
