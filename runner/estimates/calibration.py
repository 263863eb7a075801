"""Calibrations: a child process measures the missing ones, and they are kept for the next plan."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from runner.checkpoints.pass_memory import PREFILL_TOKENS
from runner.config.model import local_model
from runner.core import child, machine
from runner.core.console import say
from runner.core.errors import one_line
from runner.core.files import replace_text
from runner.core.texts import read_cache
from runner.estimates.sample import CalibrationModel
from runner.estimates.speed import EstimateBasis, Points, Speed

FILE = ".calibrations.json"  # in output_dir
PROCESS = "runner.estimates.calibration_process"
SPREAD = 0.25  # relative uncertainty of a calibration: bench/time_prediction.py


def speeds(models: list[CalibrationModel], output_dir: Path, on_line: Callable[[str], None] = say) -> dict[str, Speed]:
    """Return the speed of each model by its key, timing the missing ones; those that cannot be timed are left out."""
    known = read_cache(output_dir / FILE)
    missing = list({model.key: model for model in models if model.key not in known}.values())
    if missing:
        names = ", ".join(f"{model.config.model.name} {model.config.quantization.label}" for model in missing)
        on_line(f"calibrating: {names} (once for this machine; plan=quick leaves it out)")
        measured = _measure(missing, on_line)
        known |= measured
        if measured:
            with suppress(OSError):  # if it cannot be written, the next plan times again
                replace_text(output_dir / FILE, json.dumps(known))
    return {model.key: _speed(known[model.key], model) for model in models if model.key in known}


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


def _measure(models: list[CalibrationModel], on_line: Callable[[str], None]) -> dict[str, Any]:
    """Time models in a child process, since this one must not import torch; return the measurements by key."""
    measured: dict[str, Any] = {}
    with tempfile.TemporaryFile() as log:
        process = child.start("-m", PROCESS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        with process:
            try:
                child.send_input(process, models)
                assert process.stdout is not None
                for line in process.stdout:
                    answer = json.loads(line)
                    if problem := answer["measured"].get("error"):
                        on_line(f"not calibrated: {one_line(problem)}")
                    else:
                        measured[answer["key"]] = answer["measured"]
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            log.seek(0)
            last = log.read().decode(errors="replace").strip().splitlines()[-1:]
            on_line(f"the calibration {child.describe_exit(process.returncode)}: {' '.join(last)}")
    return measured
