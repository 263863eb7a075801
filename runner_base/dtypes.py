"""Number formats: the user's choices, and the bytes of one number."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class Dtype(StrEnum):
    """Number format of the weights and activations; auto = as the checkpoint says."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


def stored_dtype(settings: Mapping[str, Any]) -> str:
    """Return the number format that a checkpoint's config.json names, perhaps only in the part for
    the text model."""
    parts = (settings, settings.get("text_config") or {})
    return str(
        next((name for part in parts if (name := part.get("dtype") or part.get("torch_dtype"))), "float32")
    )


def dtype_for(wanted: Dtype, settings: Mapping[str, Any], device_class: str) -> str:
    """Return the number format that model.dtype means on cpu or cuda: on a CPU, bfloat16 replaces
    float16."""
    if wanted is not Dtype.auto:
        return wanted.value
    name = stored_dtype(settings)
    return "bfloat16" if (name, device_class) == ("float16", "cpu") else name
