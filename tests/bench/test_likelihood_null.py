"""A short run of the null simulation of compared likelihoods: few equal pairs are called different, and true ones are."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", ["normal", "skewed", "lopsided", "heavy", "longer"])
def test_equal_runs_are_rarely_found_to_differ_and_moved_ones_often(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[2] / "bench"), *sys.path])
    from likelihood_null import rates

    null, least, power = rates(np.random.default_rng(1), 20, kind, 100, 1)
    assert null.low <= 0.05, null
    assert power.times >= 60, power
    assert 0 < least < 0.01
