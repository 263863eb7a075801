"""A real calibration of the embedded model: what it finds, that it is kept, what a plan makes of it."""

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
from runner.estimates.sample import asked_of
from runner.estimates.speed import EstimateBasis
from runner.quantization import CHOICES


@pytest.mark.usefixtures("warm_children")
def test_a_model_is_timed_once_and_only_once(make_config: Callable[..., Any]) -> None:
    task = SweepConfig(batch_sizes=[2], prompt_tokens=[8], new_tokens=4, repeats=2, warmup=0)
    config = make_config(model=LocalModelConfig("embedded", device="cpu"), task=task)
    said: list[str] = []
    folder = Path(config.output_dir)
    jobs = {7: (config, resolve(config))}
    assert estimate(jobs, folder, calibrate=False)[7].time is None, "plan=quick times nothing"
    time = estimate(jobs, folder, calibrate=True, on_line=said.append)[7].time
    assert time is not None
    assert (time.source, time.most) == (EstimateBasis.calibrated, False)
    assert 0 < time.seconds < 300
    assert [line.split(":")[0] for line in said] == ["calibrating"]
    again = estimate(jobs, folder, calibrate=True, on_line=said.append)[7].time
    assert again == time
    assert len(said) == 1
    asked = asked_of(config, resolve(config), 6.0)
    assert asked is not None
    speed = speeds([asked], folder, said.append)[asked.key]
    assert [rows for rows, _ in speed.decode] == [1, 2, 8, 32]
    assert min(took for _, took in (*speed.prefill, *speed.decode)) > 0
    other = asked_of(replace(config, quantization=CHOICES["nf4"]()), resolve(config), 2.0)
    assert other is not None
    assert other.key != asked.key


def test_a_large_model_is_timed_by_a_few_of_its_layers(make_config: Callable[..., Any]) -> None:
    model = LocalModelConfig("x", shape="qwen25_15b_instruct", random_weights=True, device="cpu")
    asked = asked_of(config := make_config(model=model), resolve(config), 3000.0)
    assert asked is not None
    assert (asked.depths.few, asked.depths.layers) == (1, 28)
    assert 2 <= asked.depths.many <= 4
    assert asked.depths.kept_vocabulary < asked.depths.vocabulary
    stub = asked_of(config, type("Other", (), {"settings": {"model_type": "mamba"}, "stored": None})(), 1.0)
    assert stub is None
