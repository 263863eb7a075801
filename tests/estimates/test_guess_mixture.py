"""A mixture's guessed speed: few rows read few of its experts, and each token goes through a few of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from runner.config.root import RunnerConfig
from runner.estimates.guess import STEP_S, Rates
from runner_base import MIB
from runner_engine import Footprint
from runner_engine.checkpoints import Mixture


def test_few_rows_read_few_experts(make_config: Callable[..., RunnerConfig]) -> None:
    mixture = Mixture(experts=128, used=8, parameters=30_000_000, routed=28_000_000, in_blocks=29_000_000)
    weights = {"expert": 29_000_000 * 2, "embedding": 1_000_000 * 2}
    predicted = Footprint(weights, 0, 0, 0, 0)
    rates = Rates("cpu", 1e6, 1e15, unpacks=False)
    given: Any = (make_config(), predicted, 30e6, 1000)
    dense, sparse = dict(rates.speed(*given).decode), dict(rates.speed(*given, mixture).decode)
    alone = (28e6 * 2 * 8 / 128 + 1e6 * 2 + 1e6 * 2) / 1e6
    assert sparse[1.0] == pytest.approx(STEP_S["cpu"] + alone, rel=0.01)
    assert dense[1.0] == pytest.approx(STEP_S["cpu"] + predicted.weight_mib * MIB / 1e6, rel=0.01)
    assert sparse[512.0] == pytest.approx(dense[512.0], rel=0.01), "all experts have rows"
    by_products = Rates("cpu", 1e15, 1e6, unpacks=False)
    dense, sparse = dict(by_products.speed(*given).decode), dict(by_products.speed(*given, mixture).decode)
    assert sparse[512.0] / dense[512.0] == pytest.approx(mixture.active / mixture.parameters, rel=0.01)
