"""The contents of a tensor of a .gguf file: its blocks, where they are, or its numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from runner_base import DataError
from runner_engine.checkpoints.weight_files import Tensor
from runner_engine.models.gguf_types import scales_of

Numbers = np.ndarray[Any, Any]


def stored_bytes(tensor: Tensor) -> torch.Tensor:
    """Return the blocks in the mapped file, uint8 [outputs, bytes], of experts with one dimension
    before these.

    DataError where a scale is no number.
    """
    data = np.memmap(tensor.file, mode="c", dtype=np.uint8, offset=tensor.offset, shape=(tensor.nbytes,))
    stored: torch.Tensor = torch.from_numpy(data).view(*tensor.shape[:-1], -1)
    if not scales_of(stored, tensor.dtype).isfinite().all():
        raise DataError(
            f"tensor {tensor.name}: a scale of its blocks is not a finite number",
            key=tensor.file,
            code="damaged",
        )
    return stored


def numbers_of(tensor: Tensor) -> Numbers:
    """Return a tensor's numbers in float32, by the gguf package."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    data = np.memmap(tensor.file, mode="r", dtype=np.uint8, offset=tensor.offset, shape=(tensor.nbytes,))
    kind = GGMLQuantizationType[tensor.dtype]
    return np.array(dequantize(data.reshape(*tensor.shape[:-1], -1), kind), dtype=np.float32).reshape(
        tensor.shape
    )
