"""Layers of int8 weights and int8 rows that a checkpoint holds (W8A8), as the kernels multiply them.

The bytes of the weights stay where they are, in the mapped file. Rows get the bytes that `Int8Linear.prepared` gives
them; sums are exact, and one product by the scales of row and output ends them (kernels/int8_stored.h). Processors
without AVX-512's products of bytes have the same bits by kernels/int8_portable.h.
"""

from __future__ import annotations

import torch
from torch import nn

from runner.checkpoints.pass_memory import quantized_workspace_bytes
from runner.engines.local.kernels.native import FORMATS, Kernels
from runner.engines.local.kernels.shared_numbers import WeightFormat
from runner.engines.local.matmul.matrices import QuantizedWeights, multiply, shifted_sums
from runner.models.int8_linear import Int8Linear

MOST_INPUTS = 65536  # sums of more may not fit into 32 bits: as in kernels/matrices.h
TRIAL_ROWS = (7, 3)  # with a remainder; and so few that no weight is unpacked
TRIAL_OUTPUTS = 70  # whole panels with a remainder
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}  # of the largest output: torch rounds rows and weights


def weights_of(
    layer: Int8Linear, tile_rows: int, outputs: int | None = None, has_bias: bool = True
) -> QuantizedWeights:
    """Return a layer's weights, or those of its first outputs, as C reads them, without a copy of the bytes."""
    outputs = outputs or layer.out_features
    weight = layer.weight.detach()[:outputs]
    scale = layer.layout.scales(layer.stored, 0, outputs).detach().float().flatten().contiguous()
    bias = layer.bias.detach()[:outputs].contiguous() if has_bias and layer.bias is not None else None
    formats = tuple(FORMATS) if bias is None else (bias.dtype,)
    it = QuantizedWeights(WeightFormat.int8_stored, layer.in_features, outputs, formats)
    it.matrix.tile_rows = tile_rows
    it.matrix.row_scale, it.matrix.zero_point = layer.row_scale, layer.row_zero_point
    it.point_at(weight, bias, scale, shifted_sums(weight))
    return it


_tried: dict[tuple[object, ...], str] = {}  # what is wrong with products of a kind of layers


def problem(layer: Int8Linear, kernels: Kernels, tile_rows: int) -> str:
    """Say why the kernels cannot multiply a layer; empty if they can. One layer of each kind is tried beside torch."""
    if layer.weight.device.type != "cpu":
        return "it is not on the CPU"
    if layer.in_features > MOST_INPUTS:
        return f"it has more than {MOST_INPUTS:,} inputs"
    if layer.bias is not None and layer.bias.dtype not in FORMATS:
        return "its bias has another number format"
    key = layer.layout.rows, layer.row_scale, layer.row_zero_point, layer.in_features, layer.out_features
    if key not in _tried:
        off = max(_difference(layer, dtype, kernels, tile_rows) / TOLERANCE[dtype] for dtype in FORMATS)
        _tried[key] = "" if off <= 1 else f"the outputs would be off by {off:.2g} times of what rounding explains"
    return _tried[key]


def _difference(layer: Int8Linear, dtype: torch.dtype, kernels: Kernels, tile_rows: int) -> float:
    outputs, inputs, off = min(TRIAL_OUTPUTS, layer.out_features), layer.in_features, 0.0
    trial = weights_of(layer, tile_rows, outputs, has_bias=False)  # it is added in the same way to every product
    size = quantized_workspace_bytes(max(TRIAL_ROWS), inputs, torch.get_num_threads())
    workspace = torch.empty(size, dtype=torch.uint8)
    for count in TRIAL_ROWS:
        rows = torch.randn(count, inputs, generator=torch.Generator().manual_seed(count)).to(dtype)
        with torch.no_grad():
            expected = nn.functional.linear(layer.prepared(rows), layer.unpacked(0, outputs, dtype)).float()
            found = multiply(kernels, rows, trial, workspace).float()
        off = max(off, float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-9)))
    return off
