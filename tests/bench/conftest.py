"""The benchmarks are scripts that import each other by bare names."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _bench_is_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Path(__file__).parents[2] / "bench"
    monkeypatch.setattr(sys, "path", [str(bench), str(bench / "compare"), *sys.path])


@pytest.fixture
def generator() -> np.random.Generator:
    """Return the random numbers of a simulation."""
    return np.random.default_rng(1)
