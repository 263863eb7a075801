"""Calibrations: a child process measures missing model speeds, which are cached for the next plan."""

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
from runner.estimates.speed import EstimateBasis, Points, Speed, interpolate_time
from runner.render.notes import note_text
from runner_base import child_process, format_duration, machine, print_message, replace_text, to_one_line
from runner_base.notes import note
from runner_base.texts import read_json_cache
from runner_engine import to_local_config
from runner_engine.checkpoints import PREFILL_TOKENS

FILE = ".calibrations.json"  # in output_dir
PROCESS = "runner.estimates.calibration_process"
START_S = 5.0  # of the process that times
SAMPLE_S = 3.5  # of a sample: writing and loading it, trying kernels
SPREAD = 0.25  # relative uncertainty of a calibration: bench/time_prediction.py


@dataclass
class CalibrationRequest:
    """A model to calibrate, the seconds that this takes, and the seconds that its jobs take."""

    model: CalibrationModel
    cost_s: float
    work_s: float = 0.0

    @property
    def name(self) -> str:
        """The model and quantization that are timed."""
        config = self.model.config
        return f"{config.model.name} {config.quantization.label}"


def load_cached_speeds(models: list[CalibrationModel], output_dir: Path) -> dict[str, Speed]:
    """Return the speeds of earlier calibrations by model key."""
    known = read_json_cache(output_dir / FILE)
    return {model.key: _to_speed(known[model.key], model) for model in models if model.key in known}


def estimate_calibration_s(model: CalibrationModel, rough_speed: Speed) -> float:
    """Estimate the seconds that a model's calibration takes."""
    share = model.depths.many / model.depths.layers
    each_s = interpolate_time(rough_speed.prefill, LONG_PROMPT)
    for rows in ROWS:
        each_s += interpolate_time(rough_speed.prefill, rows * SHORT_PROMPT) + STEPS * interpolate_time(
            rough_speed.decode, rows
        )
    return SAMPLE_S + share * (1 + (model.depths.many < model.depths.layers)) * REPEATS * each_s


def calibrate_models(
    requests: list[CalibrationRequest],
    output_dir: Path,
    limit_s: float,
    on_line: Callable[[str], None] = print_message,
) -> dict[str, Speed]:
    """Time models within `limit_s` seconds, those with the most work first, and return their speeds by
    key.

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
        on_line(note_text(note("not_calibrated", names=names, limit_s=limit_s)))
    if not chosen:
        return {}
    formats = {"count": len(chosen), "total": len(requests)}
    on_line(note_text(note("calibrating", seconds=spent_s, limit_s=limit_s, **formats)))
    found: dict[str, Speed] = {}
    for key, measured in _run_calibrations(chosen, limit_s, on_line):
        model = next(calibration.model for calibration in chosen if calibration.model.key == key)
        found[key] = _to_speed(measured, model)
        _store_measurement(output_dir / FILE, key, measured)
    return found


def _store_measurement(file: Path, key: str, measured: dict[str, Any]) -> None:
    """Add a measurement to the file, which another plan may have written meanwhile."""
    text = json.dumps(read_json_cache(file) | {key: measured})
    with suppress(OSError):  # if it cannot be written, the next plan times again
        replace_text(file, text)


def _to_speed(measured: dict[str, Any], model: CalibrationModel) -> Speed:
    def to_points(name: str) -> Points:
        return [(float(size), float(took)) for size, took in measured[name]]

    return Speed(
        prefill=to_points("prefill"),
        decode=to_points("decode"),
        place_s=float(measured["place_s"]),
        load_s=float(measured["load_s"]),
        import_s=float(measured["import_s"]),
        limits_s=float(measured["limits_s"]),
        pass_tokens=PREFILL_TOKENS[machine.resolve_device_class(to_local_config(model.config.model).device)],
        source=EstimateBasis.calibrated,
        spread=SPREAD,
    )


def _run_calibrations(
    requests: list[CalibrationRequest], limit_s: float, on_line: Callable[[str], None]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Time models in a child process, because this one must not import torch. Yields key and
    measurement of each.
    """
    with tempfile.TemporaryFile() as log:
        process = child_process.start_python(
            "-m", PROCESS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
        )
        timer = threading.Timer(min(limit_s, threading.TIMEOUT_MAX), process.kill)
        timer.daemon = True
        left = iter(enumerate(requests, start=1))
        with process:
            try:
                timer.start()
                child_process.send_pickled_input(process, [calibration.model for calibration in requests])
                _announce_next(left, len(requests), on_line)
                assert process.stdout is not None
                for line in process.stdout:
                    answer = json.loads(line)
                    if problem := answer["measured"].get("error"):
                        on_line(f"not calibrated: {to_one_line(problem)}")
                    else:
                        yield answer["key"], answer["measured"]
                    _announce_next(left, len(requests), on_line)
            except BaseException:
                process.kill()
                process.wait()  # after a KeyboardInterrupt `with` waits for a quarter of a second only
                raise
            finally:
                is_late = not timer.is_alive()
                timer.cancel()
        if process.returncode and is_late:
            on_line(note_text(note("calibration_ended", limit_s=limit_s)))
        elif process.returncode:
            log.seek(0)
            last = log.read().decode(errors="replace").strip().splitlines()[-1:]
            on_line(
                f"the calibration {child_process.describe_exit_code(process.returncode)}: {' '.join(last)}"
            )


def _announce_next(
    remaining: Iterator[tuple[int, CalibrationRequest]], count: int, on_line: Callable[[str], None]
) -> None:
    for number, calibration in islice(remaining, 1):
        on_line(f"    {number} of {count}: {calibration.name}, about {format_duration(calibration.cost_s)}")
