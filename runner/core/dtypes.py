"""Number formats: the choices that a user has, and the bytes of one number."""

from __future__ import annotations

from enum import StrEnum


class Dtype(StrEnum):
    """Number format of the weights and activations; auto = as the checkpoint says."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
