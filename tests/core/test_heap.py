"""Freed memory goes back to the system while something runs."""

import sys
import time

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


def test_it_is_looked_at_while_something_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    monkeypatch.setattr(heap.Heap, "look", lambda _: looks.append(1.0))
    with heap.kept_small():
        until = time.monotonic() + 5
        while len(looks) < 3 and time.monotonic() < until:
            time.sleep(0.01)
    seen = len(looks)
    assert seen >= 3
    time.sleep(3 * heap.EVERY_S)
    assert len(looks) == seen
