"""Layers of 4-bit weights as bitsandbytes stores them: nf4 and fp4 where the processor multiplies no bfloat16.

There the library unpacks a whole weight for each product, and torch multiplies it slowly. The kernels look up the same
weights some inputs of a panel at a time (kernels/four_bit_rows.h), in the library's memory. Scales that are quantized
themselves are unpacked once: 1 / 16 byte a weight.
"""

from __future__ import annotations

from typing import Any

import torch

from runner_engine.kernels.shared_numbers import WeightFormat
from runner_engine.matmul.matrices import QuantizedWeights

INPUTS_AT_ONCE = 32  # share a scale at least: as in kernels/matrices.h


def rejection_reason(layer: Any) -> str:
    """Return why the kernels cannot multiply a layer, empty if they can."""
    state = layer.weight.quant_state
    if layer.compute_dtype not in (None, torch.bfloat16) or (
        layer.bias is not None and layer.bias.dtype is not torch.bfloat16
    ):
        return "its products are not in bfloat16"
    is_whole = tuple(state.shape) == (layer.out_features, layer.in_features) and layer.weight.data.is_contiguous()
    fits = not state.blocksize % INPUTS_AT_ONCE and not layer.in_features % state.blocksize
    return "" if is_whole and fits and state.code.numel() == 16 else "its blocks are not parts of its rows"


def weights_of(layer: Any) -> QuantizedWeights:
    """Return a layer's weights as C reads them, in the library's memory."""
    state, outputs = layer.weight.quant_state, layer.out_features
    it = QuantizedWeights(WeightFormat.four_bit_rows, layer.in_features, outputs, (torch.bfloat16,))
    it.matrix.block = state.blocksize
    codes, table = layer.weight.data.view(torch.uint8), state.code.float().contiguous()
    it.point_at(codes, layer.bias, _scales(state).view(outputs, -1), table)
    return it


def _scales(state: Any) -> torch.Tensor:
    """Return the scale of each block in float32, as the library unpacks it."""
    if not state.nested:
        return state.absmax.float()  # type: ignore[no-any-return]
    from bitsandbytes.functional import dequantize_blockwise

    return (dequantize_blockwise(state.absmax, state.state2) + state.offset).float()  # type: ignore[no-any-return]
