"""A real calibration of the embedded model: its result, that it is kept, and how a plan uses it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.checkpoints.resolve import resolve
from runner.config.measures import SweepConfig
from runner.config.model import LocalModelConfig
from runner.estimates.calibration import speeds
from runner.estimates.jobs import estimate
from runner.estimates.sample import calibration_model_of
from runner.estimates.speed import EstimateBasis
from runner.quantization import CHOICES


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_a_model_is_timed_exactly_once(make_config: Callable[..., Any]) -> None:
    task = SweepConfig(batch_sizes=[2], prompt_tokens=[8], new_tokens=4, repeats=2, warmup=0)
    config = make_config(model=LocalModelConfig("embedded", device="cpu"), task=task)
    lines: list[str] = []
    folder = Path(config.output_dir)
    jobs = {7: (config, resolve(config))}
    assert estimate(jobs, folder, calibrate=False)[7].time is None, "plan=quick times nothing"
    time = estimate(jobs, folder, calibrate=True, on_line=lines.append)[7].time
    assert time is not None
    assert (time.source, time.is_upper_bound) == (EstimateBasis.calibrated, False)
    assert time.seconds > 0
    assert [line.split(":")[0] for line in lines] == ["calibrating"]
    again = estimate(jobs, folder, calibrate=True, on_line=lines.append)[7].time
    assert again == time
    assert len(lines) == 1
    model = calibration_model_of(config, resolve(config), 6.0)
    assert model is not None
    speed = speeds([model], folder, lines.append)[model.key]
    assert [rows for rows, _ in speed.decode] == [1, 2, 8, 32]
    assert min(took for _, took in (*speed.prefill, *speed.decode)) > 0
    other = calibration_model_of(replace(config, quantization=CHOICES["nf4"]()), resolve(config), 2.0)
    assert other is not None
    assert other.key != model.key


def test_a_large_model_is_timed_by_a_few_of_its_layers(make_config: Callable[..., Any]) -> None:
    model = LocalModelConfig("x", shape="qwen25_15b_instruct", random_weights=True, device="cpu")
    calibration_model = calibration_model_of(config := make_config(model=model), resolve(config), 3000.0)
    assert calibration_model is not None
    assert (calibration_model.depths.few, calibration_model.depths.layers) == (1, 28)
    assert 2 <= calibration_model.depths.many <= 4
    assert calibration_model.depths.kept_vocabulary < calibration_model.depths.vocabulary
    unknown_family = calibration_model_of(
        config, type("Other", (), {"settings": {"model_type": "mamba"}, "stored": None})(), 1.0
    )
    assert unknown_family is None
