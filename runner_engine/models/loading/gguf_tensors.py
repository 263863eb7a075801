"""Reads .gguf tensors, either as quantized blocks in the memory-mapped file or dequantized."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from runner_base import DataError
from runner_engine.checkpoints.weight_files import TensorLocation
from runner_engine.models.gguf_types import extract_block_scales

NumpyArray = np.ndarray[Any, Any]


def memory_map_tensor_blocks(tensor: TensorLocation) -> torch.Tensor:
    """Return a tensor's quantized blocks as a view of the memory-mapped file.

    The shape is uint8 [outputs, bytes], or [experts, outputs, bytes] for experts.

    Raises DataError if a scale is not finite.
    """
    data = np.memmap(tensor.file, mode="c", dtype=np.uint8, offset=tensor.offset, shape=(tensor.nbytes,))
    stored: torch.Tensor = torch.from_numpy(data).view(*tensor.shape[:-1], -1)
    if not extract_block_scales(stored, tensor.dtype).isfinite().all():
        raise DataError(
            f"tensor {tensor.name}: a block has a scale that is not finite", key=tensor.file, code="damaged"
        )
    return stored


def dequantize_tensor(tensor: TensorLocation) -> NumpyArray:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    data = np.memmap(tensor.file, mode="r", dtype=np.uint8, offset=tensor.offset, shape=(tensor.nbytes,))
    kind = GGMLQuantizationType[tensor.dtype]
    return np.array(dequantize(data.reshape(*tensor.shape[:-1], -1), kind), dtype=np.float32).reshape(
        tensor.shape
    )
