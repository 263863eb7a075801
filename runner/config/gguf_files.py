"""model.name=FILE.gguf without a quantization means quantization=gguf, the only choice that reads such a file."""

from __future__ import annotations

from collections.abc import Sequence

from runner_base import names_gguf_file

READS = "quantization=gguf"
MODELS = ("auto", "local")  # the choices of model that take a file


def with_quantization(overrides: Sequence[str]) -> list[str]:
    """Return the overrides of a job, with quantization=gguf if they name a .gguf file and no quantization."""
    values = {}
    for line in overrides:
        key, _, value = line.partition("=")
        values[key.lstrip("+~")] = value.strip("'\" ")
    names_file = names_gguf_file(values.get("model.name", ""))
    is_meant = names_file and values.get("model") in MODELS and "quantization" not in values
    return [READS, *overrides] if is_meant else [*overrides]
