"""A short run of the simulation of the noise floor: what changes nothing rarely stands beyond it, and a loss does."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.thorough


def test_a_loss_stands_beyond_the_noise_and_a_repeat_rarely() -> None:
    from noise_floor_null import rates

    generator, setting = np.random.default_rng(1), (200, 0.7, 0.8)
    _, plain, _ = rates(generator, 100, setting, 1, 0.0, 0.0)
    assert plain.low <= 0.05
    found, plain, within = rates(generator, 60, setting, 1, 0.0, 0.15)
    assert min(found.times, plain.times) >= 50
    assert within.low <= 0.05
    drifting, plain, within = rates(generator, 100, setting, 1, 0.08, 0.0)
    assert drifting.low > 0.05, "the control: runs that drift as a whole are found to differ"
    assert plain.times < drifting.times / 2
    assert within.times > 0
