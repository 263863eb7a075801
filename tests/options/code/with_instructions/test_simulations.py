"""Short runs of the simulations of pass@k and of instructions."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> np.random.Generator:
    """Return the random numbers of a simulation, whose scripts import each other by bare names."""
    bench = Path(__file__).parents[4] / "bench"
    monkeypatch.setattr(sys, "path", [str(bench / "compare"), str(bench), *sys.path])
    return np.random.default_rng(1)


def test_intervals_of_pass_at_k_and_of_instructions_hold_and_the_controls_do_not(
    generator: np.random.Generator,
) -> None:
    import code_instructions_null

    missed, alone = code_instructions_null.miss_pass_at_k(generator, "known or not", 100, 10, 8, 60)
    assert missed.low <= 0.06
    assert alone.low > 0.2, "the control: answers as independent problems"
    missed, alone = code_instructions_null.miss_instruction_accuracy(generator, 100, 0.5, 60)
    assert missed.low <= 0.06
    assert alone.times > missed.times, "the control: independent instructions"


def test_equal_settings_rarely_degenerate_more_and_a_worse_one_is_found(
    generator: np.random.Generator,
) -> None:
    import code_instructions_null

    said, alone = code_instructions_null.find_differences(generator, 0.3, 1.0, 20, by_length=True)
    assert said.low <= 0.05
    assert alone.times > said.times, "the control: no correction"
    found, _ = code_instructions_null.find_differences(generator, 0.3, 3.0, 5, by_length=True)
    assert found.times == 5
