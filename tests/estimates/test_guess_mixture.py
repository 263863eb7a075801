"""A mixture's guessed speed: few rows read few of its experts, and each token goes through a few of
them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from runner.config.root import RunnerConfig
from runner.estimates.rough_speed import STEP_S, MachineRates
from runner_base import MIB
from runner_engine import Footprint
from runner_engine.checkpoints.mixture import MixtureSize


def test_few_rows_read_few_experts(make_config: Callable[..., RunnerConfig]) -> None:
    mixture = MixtureSize(experts=128, used=8, parameters=30_000_000, routed=28_000_000, in_blocks=29_000_000)
    weights = {"expert": 29_000_000 * 2, "embedding": 1_000_000 * 2}
    predicted = Footprint(weights, 0, 0, 0, 0)
    rates = MachineRates("cpu", 1e6, 1e15, unpacks=False)
    config = make_config()

    def seconds(by: MachineRates, footprint: Footprint) -> dict[float, float]:
        return dict(by.estimate_speed(config.quantization, footprint, 30e6, 1000).decode)

    dense, sparse = seconds(rates, predicted), seconds(rates, replace(predicted, mixture=mixture))
    alone = (28e6 * 2 * 8 / 128 + 1e6 * 2 + 1e6 * 2) / 1e6
    assert sparse[1.0] == pytest.approx(STEP_S["cpu"] + alone, rel=0.01)
    assert dense[1.0] == pytest.approx(STEP_S["cpu"] + predicted.weight_mib * MIB / 1e6, rel=0.01)
    assert sparse[512.0] == pytest.approx(dense[512.0], rel=0.01), "all experts have rows"
    by_products = MachineRates("cpu", 1e15, 1e6, unpacks=False)
    dense, sparse = (
        seconds(by_products, predicted),
        seconds(by_products, replace(predicted, mixture=mixture)),
    )
    assert sparse[512.0] / dense[512.0] == pytest.approx(
        mixture.active_parameters / mixture.parameters, rel=0.01
    )
