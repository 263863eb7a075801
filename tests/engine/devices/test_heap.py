"""Freed memory goes back to the system while the process runs, and the garbage collector passes
over what is old."""

import gc
import platform
import subprocess
import sys
import weakref

import pytest

from runner_base import machine
from runner_engine.devices import heap

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_memory_is_given_back_once_a_process_has_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    trimmed: list[float] = []
    sizes = iter([100.0, 120.0, 133.0, 105.0, 136.0, 90.0, 121.0, 123.0, 91.0])
    monkeypatch.setattr(machine, "anonymous_rss_mib", lambda: next(sizes))
    monkeypatch.setattr(machine, "release_free_memory", lambda: trimmed.append(1.0))
    watched = heap.HeapTrimmer()
    watched.release_freed_memory_if_grown()  # 120
    assert not trimmed
    watched.release_freed_memory_if_grown()  # 133, and 105 once it is given back
    assert len(trimmed) == 1
    watched.release_freed_memory_if_grown()  # 136: no more than 32 above
    watched.release_freed_memory_if_grown()  # 90
    watched.release_freed_memory_if_grown()  # 121: no more than 32 above that
    assert len(trimmed) == 1
    watched.release_freed_memory_if_grown()  # 123
    assert len(trimmed) == 2


# In its own process: where blocks come from depends on all that a process has freed before.
PROGRAM = """
import ctypes
from runner_engine.devices import heap; from runner_base import machine

libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def left_behind_mib():
    before_mib, large, small = machine.anonymous_rss_mib(), [], []
    for _ in range(8):
        large.append(libc.malloc(8 << 20))
        small.append(libc.malloc(100_000))
        ctypes.memset(large[-1], 1, 8 << 20)
        ctypes.memset(small[-1], 1, 100_000)
    for block in large:
        libc.free(block)
    held_mib = machine.anonymous_rss_mib() - before_mib
    for block in small:
        libc.free(block)
    machine.release_free_memory()
    return held_mib

with heap.use_mmap_for_large_blocks():
    print(left_behind_mib())
print(left_behind_mib())
with heap.use_mmap_for_large_blocks():
    print(left_behind_mib())
"""


def test_freed_blocks_leave_nothing_behind_while_a_model_is_loaded() -> None:
    """Memory that is freed between blocks in use goes back then, and stays otherwise."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    first, otherwise, again = map(float, done.stdout.split())
    assert first < 8
    assert otherwise > 32
    assert again < 8


# Pieces that stay, each with copies that are freed; torch aligns its blocks so.
PIECES = """
import ctypes, sys
from runner_engine.devices import heap

libc = ctypes.CDLL("libc.so.6")
libc.aligned_alloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.aligned_alloc.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
libc.malloc.restype = ctypes.c_void_p

def heap_mib():
    (line,) = [line for line in open("/proc/self/maps") if line.endswith("[heap]\\n")]
    first, last = (int(address, 16) for address in line.split()[0].split("-"))
    return (last - first) / (1 << 20)

before_mib = heap_mib()
with heap.use_mmap_for_large_blocks(), heap.use_mmap_for_large_blocks(int(sys.argv[1])):
    for _ in range(64):
        copies = []
        for size in (786_432, 196_608):
            copies.append(libc.aligned_alloc(64, size))
            libc.malloc(104)  # such as an object of Python
        libc.free(copies[0])
        libc.aligned_alloc(64, 98_304)
        libc.malloc(104)
        libc.free(copies[1])
    print(heap_mib() - before_mib)
print(heap.MmapThreshold.kib)
"""


def grown(least_kib: int) -> float:
    """Return by how many MiB the heap grows while 6 MiB of pieces are made."""
    command = [sys.executable, "-c", PIECES, str(least_kib)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    grown_mib, threshold_kib = done.stdout.split()
    assert int(threshold_kib) == heap.MAX_MAPPED_KIB
    return float(grown_mib)


def test_the_heap_does_not_grow_by_the_copies_of_small_pieces() -> None:
    assert grown(heap.PIECES_KIB) < 1
    if platform.libc_ver() == ("glibc", "2.36"):
        assert grown(heap.MAPPED_KIB) > 4, "how much depends on where the heap begins"


class Node:
    """Refers to itself, so that only the garbage collector frees it."""

    def __init__(self) -> None:
        self.itself = self


def test_the_garbage_collector_passes_over_what_exists_and_looks_at_it_again_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heap.GcFreezeState, "elsewhere", False)
    gc.collect()
    older, frozen_before = weakref.ref(Node()), gc.get_freeze_count()
    gc.unfreeze()  # as the test session begins with what its own start has frozen
    try:
        with heap.skip_existing_objects_in_gc():
            newer = weakref.ref(Node())
            with heap.skip_existing_objects_in_gc():
                gc.collect()
            assert older() is not None, "it was there before"
            assert newer() is None
            assert gc.get_freeze_count(), "only the outer one lets it be looked at again"
        assert not gc.get_freeze_count()
        gc.collect()
        assert older() is None
    finally:
        if frozen_before:
            gc.freeze()


@pytest.mark.thorough
def test_what_somebody_else_has_frozen_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap.GcFreezeState, "elsewhere", False)
    had_some = gc.get_freeze_count()
    gc.freeze()
    for _ in range(2):  # they are counted for the first block alone
        with heap.skip_existing_objects_in_gc():
            assert not heap.GcFreezeState.here
    assert gc.get_freeze_count()
    if not had_some:
        gc.unfreeze()
