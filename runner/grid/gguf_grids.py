"""Rejects a grid that would quantize .gguf files, with a single error for all its jobs."""

from __future__ import annotations

from collections.abc import Sequence

from runner.grid.plan import PlannedJob
from runner_base import ConfigError, is_gguf_file_name
from runner_engine import to_local_model_config
from runner_engine.quantization.base import CheckpointSource


def reject_quantization_sweep_of_gguf(plan: Sequence[PlannedJob]) -> None:
    """Raise ConfigError if every job of a grid would quantize a .gguf file."""
    quantizations: dict[str, None] = {}
    files: dict[str, None] = {}
    for planned in plan:
        if planned.config is None:
            return
        model, quantization = planned.config.model, planned.config.quantization
        if to_local_model_config(model) is not model:
            return  # another program reads it
        is_file = is_gguf_file_name(model.name)
        if not is_file or quantization.source is CheckpointSource.gguf:
            return
        quantizations[quantization.name] = files[model.name] = None
    if len(quantizations) < 2:
        return  # the one job's own error says it
    raise ConfigError(
        (
            f"{', '.join(files)} is a .gguf file, which is already quantized. Remove the "
            "quantization key, and sweep over files: model.name=A.gguf,B.gguf"
        ),
        key="quantization",
        value=",".join(quantizations),
        code="conflict",
    )
