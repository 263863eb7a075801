"""A short run of the simulation of planned questions: the plan holds its power, and the control falls short."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.thorough


def test_a_plan_from_a_small_sample_holds_its_power_and_the_observed_share_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import planning_null

    monkeypatch.setattr(planning_null, "KNOWN", [(0.1, 0.05)])
    monkeypatch.setattr(planning_null, "FIRST", [(20, 0.1)])
    generator = np.random.default_rng(1)
    assert all(rate.low < 0.83 and rate.high > 0.77 for rate in planning_null.known(generator, 300))
    many, few = planning_null.after_a_first_sample(generator, 300)
    assert few == []
    assert all(rate.low < 0.83 and rate.high > 0.77 for rate in many)
    assert planning_null.plan(0, 0, 20, False, True) < planning_null.plan(0, 0, 20, False, False)
