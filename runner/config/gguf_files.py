"""Adds quantization=gguf to jobs with model.name=FILE.gguf, because no other quantization choice
reads GGUF files.
"""

from __future__ import annotations

from collections.abc import Sequence

from runner_base import is_gguf_file_name

READS = "quantization=gguf"
MODELS = ("auto", "local")  # the choices of model that take a file


def add_gguf_quantization_override(overrides: Sequence[str]) -> list[str]:
    """Return the overrides, extended by quantization=gguf if a .gguf file is named and no quantization
    is chosen.
    """
    values = {}
    for line in overrides:
        key, _, value = line.partition("=")
        values[key.lstrip("+~")] = value.strip("'\" ")
    names_file = is_gguf_file_name(values.get("model.name", ""))
    is_meant = names_file and values.get("model") in MODELS and "quantization" not in values
    return [READS, *overrides] if is_meant else [*overrides]
