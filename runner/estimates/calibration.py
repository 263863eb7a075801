"""Calibrations: asked of a child process where this machine has none yet, and kept for the next plan."""

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
from runner.core.files import replace_with
from runner.core.texts import read_cache
from runner.estimates.sample import CalibrationModel
from runner.estimates.speed import EstimateBasis, Points, Speed

FILE = ".calibrations.json"  # in output_dir
PROCESS = "runner.estimates.calibration_process"
SPREAD = 0.25  # of what a calibration says: bench/time_prediction.py


def speeds(asked: list[CalibrationModel], output_dir: Path, on_line: Callable[[str], None] = say) -> dict[str, Speed]:
    """Return the speed of each, by its key; what is not known yet is timed now. What cannot be timed is left out."""
    known = read_cache(output_dir / FILE)
    missing = list({one.key: one for one in asked if one.key not in known}.values())
    if missing:
        named = ", ".join(f"{one.config.model.name} {one.config.quantization.name}" for one in missing)
        on_line(f"calibrating: {named} (once for this machine; plan=quick leaves it out)")
        fresh = _ask(missing, on_line)
        known |= fresh
        if fresh:
            with suppress(OSError):  # what cannot be kept is timed again
                replace_with(output_dir / FILE, lambda path: path.write_text(json.dumps(known)))
    return {one.key: _speed(known[one.key], one) for one in asked if one.key in known}


def _speed(measured: dict[str, Any], asked: CalibrationModel) -> Speed:
    def points(name: str) -> Points:
        return [(float(size), float(took)) for size, took in measured[name]]

    return Speed(
        prefill=points("prefill"),
        decode=points("decode"),
        place_s=float(measured["place_s"]),
        load_s=float(measured["load_s"]),
        import_s=float(measured["import_s"]),
        limits_s=float(measured["limits_s"]),
        pass_tokens=PREFILL_TOKENS[machine.device_class(local_model(asked.config.model).device)],
        source=EstimateBasis.calibrated,
        spread=SPREAD,
    )


def _ask(asked: list[CalibrationModel], on_line: Callable[[str], None]) -> dict[str, Any]:
    """Time models in a child process, since this one must not import torch; return what came out, by key."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryFile() as log:
        process = child.start("-m", PROCESS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        with process:
            try:
                child.send_input(process, asked)
                assert process.stdout is not None
                for line in process.stdout:
                    said = json.loads(line)
                    if problem := said["measured"].get("error"):
                        on_line(f"not calibrated: {one_line(problem)}")
                    else:
                        found[said["key"]] = said["measured"]
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            log.seek(0)
            last = log.read().decode(errors="replace").strip().splitlines()[-1:]
            on_line(f"the calibration {child.describe_exit(process.returncode)}: {' '.join(last)}")
    return found
