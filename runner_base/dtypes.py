"""Number formats of weights and activations, and their size in bytes."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class Dtype(StrEnum):
    """Number format of weights and activations; auto uses the checkpoint's format."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


def find_stored_dtype(model_config: Mapping[str, Any]) -> str:
    """Return the dtype in config.json. For multimodal models, the dtype may be in `text_config`."""
    parts = (model_config, model_config.get("text_config") or {})
    return str(
        next((name for part in parts if (name := part.get("dtype") or part.get("torch_dtype"))), "float32")
    )


def resolve_dtype(requested: Dtype, model_config: Mapping[str, Any], device_class: str) -> str:
    """Resolve model.dtype for a device class. On a CPU, `auto` replaces float16 by bfloat16."""
    if requested is not Dtype.auto:
        return requested.value
    name = find_stored_dtype(model_config)
    return "bfloat16" if (name, device_class) == ("float16", "cpu") else name
