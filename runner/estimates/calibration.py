"""Calibrations: a child process measures the missing ones, and they are kept for the next plan."""

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
from runner.estimates.speed import EstimateBasis, Points, Speed, interpolate
from runner.render.notes import note_text
from runner_base import child, clock, machine, one_line, replace_text, say
from runner_base.notes import note
from runner_base.texts import read_cache
from runner_engine import local_model
from runner_engine.checkpoints import PREFILL_TOKENS

FILE = ".calibrations.json"  # in output_dir
PROCESS = "runner.estimates.calibration_process"
START_S = 5.0  # of the process that times
SAMPLE_S = 3.5  # of a sample: writing and loading it, trying kernels
SPREAD = 0.25  # relative uncertainty of a calibration: bench/time_prediction.py


@dataclass
class Calibration:
    """A model that may be timed, how long that takes, and how long the jobs with it take."""

    model: CalibrationModel
    cost_s: float
    work_s: float = 0.0

    @property
    def name(self) -> str:
        """What is timed."""
        config = self.model.config
        return f"{config.model.name} {config.quantization.label}"


def known_speeds(models: list[CalibrationModel], output_dir: Path) -> dict[str, Speed]:
    """Return the speeds that earlier calibrations have measured, by the models' keys."""
    known = read_cache(output_dir / FILE)
    return {model.key: _speed(known[model.key], model) for model in models if model.key in known}


def calibration_s(model: CalibrationModel, guessed: Speed) -> float:
    """Return about how long the calibration of a model takes."""
    share = model.depths.many / model.depths.layers
    each_s = interpolate(guessed.prefill, LONG_PROMPT)
    for rows in ROWS:
        each_s += interpolate(guessed.prefill, rows * SHORT_PROMPT) + STEPS * interpolate(
            guessed.decode, rows
        )
    return SAMPLE_S + share * (1 + (model.depths.many < model.depths.layers)) * REPEATS * each_s


def measure(
    missing: list[Calibration], output_dir: Path, limit_s: float, on_line: Callable[[str], None] = say
) -> dict[str, Speed]:
    """Time models in at most so many seconds, those with the most work first, and return their
    speeds by key.

    Each is kept as soon as it is measured. Those that cannot be timed, or not in time, are left
    out.
    """
    chosen, spent_s = list[Calibration](), START_S
    for calibration in sorted(missing, key=lambda calibration: -calibration.work_s):
        if spent_s + calibration.cost_s <= limit_s:
            chosen.append(calibration)
            spent_s += calibration.cost_s
    left_out = [calibration for calibration in missing if calibration not in chosen]
    if left_out:
        names = [calibration.name for calibration in left_out]
        on_line(note_text(note("not_calibrated", names=names, limit_s=limit_s)))
    if not chosen:
        return {}
    formats = {"count": len(chosen), "total": len(missing)}
    on_line(note_text(note("calibrating", seconds=spent_s, limit_s=limit_s, **formats)))
    found: dict[str, Speed] = {}
    for key, measured in _measure(chosen, limit_s, on_line):
        model = next(calibration.model for calibration in chosen if calibration.model.key == key)
        found[key] = _speed(measured, model)
        _keep(output_dir / FILE, key, measured)
    return found


def _keep(file: Path, key: str, measured: dict[str, Any]) -> None:
    """Add a measurement to the file, which another plan may have written meanwhile."""
    text = json.dumps(read_cache(file) | {key: measured})
    with suppress(OSError):  # if it cannot be written, the next plan times again
        replace_text(file, text)


def _speed(measured: dict[str, Any], model: CalibrationModel) -> Speed:
    def points(name: str) -> Points:
        return [(float(size), float(took)) for size, took in measured[name]]

    return Speed(
        prefill=points("prefill"),
        decode=points("decode"),
        place_s=float(measured["place_s"]),
        load_s=float(measured["load_s"]),
        import_s=float(measured["import_s"]),
        limits_s=float(measured["limits_s"]),
        pass_tokens=PREFILL_TOKENS[machine.device_class(local_model(model.config.model).device)],
        source=EstimateBasis.calibrated,
        spread=SPREAD,
    )


def _measure(
    calibrations: list[Calibration], limit_s: float, on_line: Callable[[str], None]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Time models in a child process, since this one must not import torch; yield each measurement
    with its key."""
    with tempfile.TemporaryFile() as log:
        process = child.start("-m", PROCESS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        timer = threading.Timer(min(limit_s, threading.TIMEOUT_MAX), process.kill)
        timer.daemon = True
        left = iter(enumerate(calibrations, start=1))
        with process:
            try:
                timer.start()
                child.send_input(process, [calibration.model for calibration in calibrations])
                _say_next(left, len(calibrations), on_line)
                assert process.stdout is not None
                for line in process.stdout:
                    answer = json.loads(line)
                    if problem := answer["measured"].get("error"):
                        on_line(f"not calibrated: {one_line(problem)}")
                    else:
                        yield answer["key"], answer["measured"]
                    _say_next(left, len(calibrations), on_line)
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
            on_line(f"the calibration {child.describe_exit(process.returncode)}: {' '.join(last)}")


def _say_next(left: Iterator[tuple[int, Calibration]], count: int, on_line: Callable[[str], None]) -> None:
    """Say what is timed now."""
    for number, calibration in islice(left, 1):
        on_line(f"    {number} of {count}: {calibration.name}, about {clock(calibration.cost_s)}")
