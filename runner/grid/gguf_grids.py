"""Refuses a grid over quantizations that a .gguf file cannot have, by one line instead of one for each job."""

from __future__ import annotations

from collections.abc import Sequence

from runner.grid.plan import PlannedJob
from runner_base import ConfigError, names_gguf_file
from runner_engine import local_model
from runner_engine.quantization.base import CheckpointSource


def refuse_other_quantizations(plan: Sequence[PlannedJob]) -> None:
    """Refuse a grid in which every job would quantize a .gguf file."""
    quantizations: dict[str, None] = {}
    files: dict[str, None] = {}
    for planned in plan:
        if planned.config is None:
            return
        model, quantization = planned.config.model, planned.config.quantization
        if local_model(model) is not model:
            return  # another program reads it
        is_file = names_gguf_file(model.name)
        if not is_file or quantization.source is CheckpointSource.gguf:
            return
        quantizations[quantization.name] = files[model.name] = None
    if len(quantizations) < 2:
        return  # the one job's own error says it
    raise ConfigError(
        f"{', '.join(files)} is a .gguf file, which is quantized already. "
        "Leave quantization out, and compare files: model.name=A.gguf,B.gguf",
        key="quantization",
        value=",".join(quantizations),
        code="conflict",
    )
