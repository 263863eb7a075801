"""The machine's rates are kept, so that each estimate of a job is the same; a busy machine is measured again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.estimates import rough_speed
from runner_base import machine


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[tuple[float, float]]]:
    """Yield what the next measurements find, each by a process of its own."""
    found: list[tuple[float, float]] = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(rough_speed, "_measure_memory_and_matmul_rates", lambda: found.pop(0))
    rough_speed._load_or_measure_machine_rates.cache_clear()
    yield found
    rough_speed._load_or_measure_machine_rates.cache_clear()


def measured() -> tuple[float, float]:
    rough_speed._load_or_measure_machine_rates.cache_clear()
    return rough_speed._load_or_measure_machine_rates()


def test_a_second_plan_has_the_rates_of_the_first(
    rates: list[tuple[float, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine.Contention, "describe_load_by_other_programs", lambda _: "")
    rates += [(1e9, 2e9), (3e9, 4e9)]
    assert measured() == measured() == (1e9, 2e9)
    assert len(rates) == 1


def test_rates_of_a_busy_machine_are_measured_again_until_it_is_quiet(
    rates: list[tuple[float, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = ["beside other work"] * 2 + [""] * 2
    monkeypatch.setattr(machine.Contention, "describe_load_by_other_programs", lambda _: busy.pop(0))
    rates += [(1e9, 1e9), (2e9, 2e9), (3e9, 3e9), (4e9, 4e9)]
    assert [measured()[0] for _ in range(4)] == [1e9, 1e9, 3e9, 3e9]
