"""Describes a planned quantization: source model, quantizer, calibration texts and target."""

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


def describe_plan(
    task: QuantizeConfig,
    source: SourceModel,
    environment: QuantizerEnvironment,
    calibration: Calibration | None,
    target: Path,
    notes: Sequence[Note],
) -> str:
    lines = [
        f"makes {target}",
        f"of {source.path}: {source.parameters:,} parameters, {source.nbytes / MIB:,.1f} MiB",
        f"by {task.recipe_properties.maker.label} {environment.version} of {environment.path}",
    ]
    if calibration is not None:
        lines.append(
            f"on {task.sequences} pieces of {task.sequence_tokens} tokens of {calibration.name} "
            f"({len(calibration.texts):,} texts, SHA-256 {calibration.sha256[:12]})"
        )
    return "\n".join([*lines, *(f"note: {render_note(each, NOTES)}" for each in notes)])
