"""Freed memory goes back to the system while the process runs, and the garbage collector passes over what is old."""

import gc
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
    monkeypatch.setattr(machine, "anonymous_mib", lambda: next(sizes))
    monkeypatch.setattr(machine, "trim", lambda: trimmed.append(1.0))
    watched = heap.Heap()
    watched.trim_if_grown()  # 120
    assert not trimmed
    watched.trim_if_grown()  # 133, and 105 once it is given back
    assert len(trimmed) == 1
    watched.trim_if_grown()  # 136: no more than 32 above
    watched.trim_if_grown()  # 90
    watched.trim_if_grown()  # 121: no more than 32 above that
    assert len(trimmed) == 1
    watched.trim_if_grown()  # 123
    assert len(trimmed) == 2


# In its own process: where blocks come from depends on all that a process has freed before.
PROGRAM = """
import ctypes
from runner_engine.devices import heap; from runner_base import machine

libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def left_behind_mib():
    before_mib, large, small = machine.anonymous_mib(), [], []
    for _ in range(8):
        large.append(libc.malloc(8 << 20))
        small.append(libc.malloc(100_000))
        ctypes.memset(large[-1], 1, 8 << 20)
        ctypes.memset(small[-1], 1, 100_000)
    for block in large:
        libc.free(block)
    held_mib = machine.anonymous_mib() - before_mib
    for block in small:
        libc.free(block)
    machine.trim()
    return held_mib

with heap.large_blocks_mapped():
    print(left_behind_mib())
print(left_behind_mib())
with heap.large_blocks_mapped():
    print(left_behind_mib())
"""


def test_freed_blocks_leave_nothing_behind_while_a_model_is_loaded() -> None:
    """Memory that is freed between blocks in use goes back then, and stays otherwise."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    first, otherwise, again = map(float, done.stdout.split())
    assert first < 8
    assert otherwise > 32
    assert again < 8


class Node:
    """Refers to itself, so that only the garbage collector frees it."""

    def __init__(self) -> None:
        self.itself = self


def test_the_garbage_collector_passes_over_what_exists_and_looks_at_it_again_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heap.Frozen, "elsewhere", False)
    gc.collect()
    older, frozen_before = weakref.ref(Node()), gc.get_freeze_count()
    gc.unfreeze()  # as the test session begins with what its own start has frozen
    try:
        with heap.collecting_only_new():
            newer = weakref.ref(Node())
            with heap.collecting_only_new():
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


def test_what_somebody_else_has_frozen_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap.Frozen, "elsewhere", False)
    had_some = gc.get_freeze_count()
    gc.freeze()
    for _ in range(2):  # they are counted for the first block alone
        with heap.collecting_only_new():
            assert not heap.Frozen.here
    assert gc.get_freeze_count()
    if not had_some:
        gc.unfreeze()
