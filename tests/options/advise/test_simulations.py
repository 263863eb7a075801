"""The simulation that proves what runner-advise claims, made small."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _bench_is_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulations are scripts that import each other by bare names."""
    bench = Path(__file__).parents[3] / "bench"
    monkeypatch.setattr(sys, "path", [str(bench / "compare"), str(bench), *sys.path])


@pytest.mark.thorough
def test_few_claims_about_accuracy_are_wrong_and_far_worse_candidates_are_last(tmp_path: Path) -> None:
    """Runner-advise: few claims are wrong, the rule before was, and far worse ones are last."""
    from advise_null import Draws, rates

    draws = Draws(np.random.default_rng(1), tmp_path)
    before, now, _, _ = rates(draws, 25, (0.5, 0.5, 0.5, 0.5), 0.5, False)
    assert now.low <= 0.05
    assert before.low > 0.5
    _, now, _, last = rates(draws, 10, (0.6, 0.6, 0.3, 0.6), 0.5, True)
    assert now.low <= 0.05
    assert last.times >= 9
