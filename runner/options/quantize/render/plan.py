"""Describes a planned quantization for plan=true: source model, quantizer, calibration texts and target."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from runner.options.quantize.calibration import Calibration
from runner.options.quantize.environment import QuantizerEnvironment
from runner.options.quantize.keys import QuantizeConfig
from runner.options.quantize.render.notes import NOTES
from runner.options.quantize.source import SourceModel
from runner_base import MIB
from runner_base.notes import Note
from runner_base.render.notes import render_note


def format_quantization_plan(
    task: QuantizeConfig,
    source: SourceModel,
    environment: QuantizerEnvironment,
    calibration: Calibration | None,
    target: Path,
    notes: Sequence[Note],
) -> str:
    lines = [
        f"output: {target}",
        f"source: {source.path} with {source.parameters:,} parameters, {source.nbytes / MIB:,.1f} MiB",
        f"quantizer: {task.recipe_properties.maker.label} {environment.version} in {environment.path}",
    ]
    if calibration is not None:
        lines.append(
            f"calibration data: {calibration.name} ({len(calibration.texts):,} texts, SHA-256 "
            f"{calibration.sha256[:12]}), {task.sequences} sequences of {task.sequence_tokens} tokens"
        )
    return "\n".join([*lines, *(f"note: {render_note(each, NOTES)}" for each in notes)])
