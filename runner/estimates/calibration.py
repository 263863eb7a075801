"""Calibration: a child process measures the speeds of models that have not been timed yet. Later plans
reuse them.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from runner.estimates.sample import LONG_PROMPT, REPEATS, ROWS, SHORT_PROMPT, STEPS, CalibrationModel
from runner.estimates.speed import EstimateBasis, SizeTimePoints, Speed, interpolate_time
from runner.render.notes import format_note
from runner_base import (
    child_process,
    format_duration,
    machine,
    print_message,
    replace_text_file_atomically,
    to_one_line,
)
from runner_base.notes import note
from runner_base.texts import read_json_cache
from runner_engine import to_local_model_config
from runner_engine.checkpoints import PREFILL_TOKENS

FILE = ".calibrations.json"  # in output_dir
PROCESS = "runner.estimates.calibration_process"
START_S = 5.0  # of the process that times
SAMPLE_S = 3.5  # of a sample: writing and loading it, trying kernels
SPREAD = 0.25  # relative uncertainty of a calibration: bench/time_prediction.py


@dataclass
class CalibrationRequest:
    """A model to calibrate, with the estimated seconds of its calibration and of its jobs."""

    model: CalibrationModel
    cost_s: float
    work_s: float = 0.0

    @property
    def name(self) -> str:
        config = self.model.config
        return f"{config.model.name} {config.quantization.label}"


def load_cached_speeds(models: list[CalibrationModel], output_dir: Path) -> dict[str, Speed]:
    """Return the model speeds that earlier calibrations have measured, by model key."""
    known = read_json_cache(output_dir / FILE)
    return {
        model.key: _measurement_to_speed(known[model.key], model) for model in models if model.key in known
    }


def estimate_calibration_s(model: CalibrationModel, estimated_speed: Speed) -> float:
    """Estimate how many seconds the calibration of a model takes."""
    share = model.depths.many / model.depths.layers
    each_s = interpolate_time(estimated_speed.prefill, LONG_PROMPT)
    for rows in ROWS:
        each_s += interpolate_time(estimated_speed.prefill, rows * SHORT_PROMPT) + STEPS * interpolate_time(
            estimated_speed.decode, rows
        )
    return SAMPLE_S + share * (1 + (model.depths.many < model.depths.layers)) * REPEATS * each_s


def calibrate_models(
    requests: list[CalibrationRequest],
    output_dir: Path,
    limit_s: float,
    print_line: Callable[[str], None] = print_message,
) -> dict[str, Speed]:
    """Measure the speed of models within a time limit, starting with the models that have the most
    work.

    Returns the speeds by model key.

    Each speed is stored as soon as it is measured. Models that cannot be timed, or not within the
    limit, are omitted.
    """
    chosen, spent_s = list[CalibrationRequest](), START_S
    for calibration in sorted(requests, key=lambda calibration: -calibration.work_s):
        if spent_s + calibration.cost_s <= limit_s:
            chosen.append(calibration)
            spent_s += calibration.cost_s
    left_out = [calibration for calibration in requests if calibration not in chosen]
    if left_out:
        names = [calibration.name for calibration in left_out]
        print_line(format_note(note("not_calibrated", names=names)))
    if not chosen:
        return {}
    formats = {"count": len(chosen), "total": len(requests)}
    print_line(format_note(note("calibrating", seconds=spent_s, limit_s=limit_s, **formats)))
    found: dict[str, Speed] = {}
    for key, measured in _run_calibrations(chosen, limit_s, print_line):
        model = next(calibration.model for calibration in chosen if calibration.model.key == key)
        found[key] = _measurement_to_speed(measured, model)
        _cache_measurement(output_dir / FILE, key, measured)
    return found


def _cache_measurement(file: Path, key: str, measurement: dict[str, Any]) -> None:
    """Add a measurement to the cache file. The file is read again, because another process may
    have changed it.
    """
    text = json.dumps(read_json_cache(file) | {key: measurement})
    with suppress(OSError):  # if it cannot be written, the next plan times again
        replace_text_file_atomically(file, text)


def _measurement_to_speed(measurement: dict[str, Any], model: CalibrationModel) -> Speed:
    def to_points(name: str) -> SizeTimePoints:
        return [(float(size), float(took)) for size, took in measurement[name]]

    return Speed(
        prefill=to_points("prefill"),
        decode=to_points("decode"),
        place_s=float(measurement["place_s"]),
        load_s=float(measurement["load_s"]),
        import_s=float(measurement["import_s"]),
        limits_s=float(measurement["limits_s"]),
        pass_tokens=PREFILL_TOKENS[
            machine.resolve_device_class(to_local_model_config(model.config.model).device)
        ],
        source=EstimateBasis.calibrated,
        spread=SPREAD,
    )


def _run_calibrations(
    requests: list[CalibrationRequest], limit_s: float, print_line: Callable[[str], None]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Time models in a child process, because this process must not import torch. Yields each model's
    key and measurement.
    """
    with tempfile.TemporaryFile() as log:
        process = child_process.start_python_child_process(
            "-m", PROCESS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
        )
        timer = threading.Timer(min(limit_s, threading.TIMEOUT_MAX), process.kill)
        timer.daemon = True
        left = iter(enumerate(requests, start=1))
        with process:
            try:
                timer.start()
                child_process.send_pickled_input(process, [calibration.model for calibration in requests])
                _announce_next_calibration(left, len(requests), print_line)
                assert process.stdout is not None
                for line in process.stdout:
                    answer = json.loads(line)
                    if problem := answer["measured"].get("error"):
                        print_line(f"not calibrated: {to_one_line(problem)}")
                    else:
                        yield answer["key"], answer["measured"]
                    _announce_next_calibration(left, len(requests), print_line)
            except BaseException:
                process.kill()
                process.wait()  # after a KeyboardInterrupt `with` waits for a quarter of a second only
                raise
            finally:
                is_late = not timer.is_alive()
                timer.cancel()
        if process.returncode and is_late:
            print_line(format_note(note("calibration_ended", limit_s=limit_s)))
        elif process.returncode:
            log.seek(0)
            last = log.read().decode(errors="replace").strip().splitlines()[-1:]
            print_line(
                f"the calibration {child_process.describe_exit_code(process.returncode)}: {' '.join(last)}"
            )


def _announce_next_calibration(
    remaining: Iterator[tuple[int, CalibrationRequest]], count: int, print_line: Callable[[str], None]
) -> None:
    for number, calibration in islice(remaining, 1):
        print_line(
            f"    {number} of {count}: {calibration.name}, about {format_duration(calibration.cost_s)}"
        )
