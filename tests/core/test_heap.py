"""Freed memory goes back to the system while something runs."""

import ctypes
import sys

import pytest

from runner.core import heap, machine

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_memory_is_given_back_once_a_process_has_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    trimmed: list[float] = []
    held = iter([100.0, 120.0, 133.0, 105.0, 136.0, 90.0, 121.0, 123.0, 91.0])
    monkeypatch.setattr(machine, "anonymous_mib", lambda: next(held))
    monkeypatch.setattr(machine, "trim", lambda: trimmed.append(1.0))
    watched = heap.Heap()
    watched.look()  # 120
    assert not trimmed
    watched.look()  # 133, and 105 once it is given back
    assert len(trimmed) == 1
    watched.look()  # 136: no more than 32 above
    watched.look()  # 90
    watched.look()  # 121: no more than 32 above that
    assert len(trimmed) == 1
    watched.look()  # 123
    assert len(trimmed) == 2


def left_behind_mib() -> float:
    """What a process holds more once large blocks are freed, with small ones between them that are in use."""
    libc = ctypes.CDLL("libc.so.6")
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    machine.trim()  # else blocks come from what other tests have left behind
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
    return held_mib


def test_freed_blocks_leave_nothing_behind_while_a_model_is_loaded() -> None:
    with heap.kept_small():
        assert left_behind_mib() < 8
    assert left_behind_mib() > 32, "what happens otherwise"
    with heap.kept_small():
        assert left_behind_mib() < 8
