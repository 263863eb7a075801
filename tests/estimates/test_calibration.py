"""A real calibration of the embedded model: its result, that it is kept, and how a plan uses it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.config.measures import SweepConfig
from runner.config.resolved import resolve_job
from runner.estimates.calibration import FILE, CalibrationRequest, calibrate_models, load_cached_speeds
from runner.estimates.jobs import estimate_memory_and_time
from runner.estimates.sample import build_model_for_speed_calibration
from runner.estimates.speed import EstimateBasis
from runner.render.notes import format_note
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base.notes import note
from runner_engine.quantization import CHOICES
from runner_engine.settings.model import LocalModelConfig


def without_busy(lines: list[str]) -> Callable[[str], None]:
    """Return a function that adds a line, unless it says that other programs run here."""
    return lambda line: None if "this machine is busy" in line else lines.append(line)


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_a_model_is_timed_exactly_once(make_config: Callable[..., Any]) -> None:
    # worth timing
    task = SweepConfig(batch_sizes=[2], prompt_tokens=[8], new_tokens=512, repeats=1000, warmup=0)
    config = make_config(model=LocalModelConfig("embedded", device="cpu"), task=task)
    lines: list[str] = []
    folder = Path(config.output_dir)
    jobs = {7: resolve_job(config)}
    guessed = estimate_memory_and_time(jobs, folder, should_calibrate=False, print_line=without_busy(lines))[
        7
    ].time
    assert guessed is not None
    assert (guessed.source, lines) == (EstimateBasis.guessed, []), "plan=quick times nothing"
    time = estimate_memory_and_time(jobs, folder, should_calibrate=True, print_line=without_busy(lines))[
        7
    ].time
    assert time is not None
    assert (time.source, time.is_upper_bound) == (EstimateBasis.calibrated, False)
    assert time.seconds > 0
    first, second = lines
    assert first.startswith("measuring the speed of 1 of 1 formats ")
    assert second.split(",")[0] == "    1 of 1: embedded none"
    assert "plan=quick skips this" in lines[0]
    again = estimate_memory_and_time(jobs, folder, should_calibrate=True, print_line=without_busy(lines))[
        7
    ].time
    assert again == time
    assert len(lines) == 2
    model = build_model_for_speed_calibration(resolve_job(config), 6.0)
    assert model is not None
    speed = load_cached_speeds([model], folder)[model.key]
    assert [rows for rows, _ in speed.decode] == [1, 2, 8, 32]
    assert min(took for _, took in (*speed.prefill, *speed.decode)) > 0
    other = build_model_for_speed_calibration(
        resolve_job(replace(config, quantization=CHOICES["nf4"]())), 2.0
    )
    assert other is not None
    assert other.key != model.key


def test_small_work_is_guessed_and_nothing_is_timed(make_config: Callable[..., Any]) -> None:
    config = make_config(model=LocalModelConfig("embedded", device="cpu"), task=Gsm8kConfig(limit=20))
    lines: list[str] = []
    time = estimate_memory_and_time(
        {0: resolve_job(config)},
        Path(config.output_dir),
        should_calibrate=True,
        print_line=without_busy(lines),
    )[0].time
    assert time is not None
    assert time.source is EstimateBasis.guessed
    (line,) = lines
    assert line.startswith("times of embedded none are rough estimates")
    assert not Path(config.output_dir, FILE).exists()


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_what_was_timed_before_an_interruption_is_kept(make_config: Callable[..., Any]) -> None:
    config = make_config(model=LocalModelConfig("embedded", device="cpu"))
    folder, lines = Path(config.output_dir), list[str]()
    formats = [replace(config, quantization=CHOICES[name]()) for name in ("none", "int8", "nf4")]
    models = [
        model
        for it in formats
        if (model := build_model_for_speed_calibration(resolve_job(it), 6.0)) is not None
    ]

    def interrupt(line: str) -> None:
        lines.append(line)
        if line.startswith("    3 of 3"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate_models([CalibrationRequest(model, 1.0) for model in models], folder, math.inf, interrupt)
    assert [line.split(",")[0] for line in lines[1:]] == [
        "    1 of 3: embedded none", "    2 of 3: embedded int8", "    3 of 3: embedded nf4",
    ]  # fmt: skip
    assert load_cached_speeds(models, folder).keys() == {model.key for model in models[:2]}


@pytest.mark.usefixtures("warm_children")
def test_a_calibration_ends_with_its_time(make_config: Callable[..., Any]) -> None:
    config = make_config(model=LocalModelConfig("embedded", device="cpu"))
    model = build_model_for_speed_calibration(resolve_job(config), 6.0)
    assert model is not None
    lines: list[str] = []
    # the second is believed to take no time
    large, small = (CalibrationRequest(model, 1000.0), CalibrationRequest(model, -5.0))
    assert calibrate_models([large, small], Path(config.output_dir), 0.01, lines.append) == {}
    assert lines[0].startswith("times of embedded none are rough estimates")
    assert lines[-1].startswith(format_note(note("calibration_ended", limit_s=0.01)))


def test_a_large_model_is_timed_by_a_few_of_its_layers(make_config: Callable[..., Any]) -> None:
    model = LocalModelConfig("x", shape="qwen25_15b_instruct", random_weights=True, device="cpu")
    resolved = resolve_job(make_config(model=model))
    calibration_model = build_model_for_speed_calibration(resolved, 3000.0)
    assert calibration_model is not None
    assert (calibration_model.depths.few, calibration_model.depths.layers) == (1, 28)
    assert 2 <= calibration_model.depths.many <= 4
    assert calibration_model.depths.kept_vocabulary < calibration_model.depths.vocabulary
    resolved.model.files.settings = {"model_type": "mamba"}
    assert build_model_for_speed_calibration(resolved, 1.0) is None, "its family is unknown"
