"""Layers of LLM.int8(): rows are quantized, too, and outliers multiplied separately.

The kernels are tried beside steps of torch, whose sums are exact. The library's own sums are made
by torch's product of bytes, which saturates where ONEDNN_MAX_CPU_ISA hides VNNI from oneDNN: torch
asks the processor itself whether it has VNNI.
"""

from __future__ import annotations

from typing import Any

import torch

from runner_base.notes import note
from runner_engine.kernels.shared_numbers import WeightFormat
from runner_engine.matmul.int8_dynamic import exact_sums
from runner_engine.matmul.library_layers import (
    check_trial,
    formats_of,
    forward_by,
    in_large_pages,
    kernels_for,
    let_rearrange,
)
from runner_engine.matmul.matrices import QuantizedWeights, shifted_sums
from runner_engine.matmul.replacing import Forward, Means, Replacement, UnsupportedLayer

FACTOR = 6.200124e-05  # 1 / 127 / 127, and 1 / 127, as the library rounds them
OF_WEIGHT = 7.874015718698502e-3


def replacement(layer: Any, means: Means) -> Replacement:
    """Return what multiplies a layer by the kernels."""
    kernels_for(layer, means)
    let_rearrange(layer, means)
    state, stored, bias = layer.state, layer.state.CB, layer.bias
    if (
        state.has_fp16_weights
        or stored is None
        or stored.dtype is not torch.int8
        or not stored.is_contiguous()
    ):
        raise UnsupportedLayer(note("not_stored_as_int8"))
    is_shared = layer.weight.data_ptr() == stored.data_ptr()
    scale, weight, sums = (
        state.SCB.float().contiguous(),
        in_large_pages(stored, means),
        shifted_sums(stored),
    )
    if is_shared:
        layer.weight.data = weight  # or what it was would stay in memory
    weights = QuantizedWeights(WeightFormat.row_int8, layer.in_features, layer.out_features, formats_of(bias))
    weights.matrix.threshold, weights.matrix.tile_rows = state.threshold, means.byte_tile_rows
    weights.point_at(weight, bias, scale, sums)
    forward = forward_by(layer, weights, means, lambda: state.CB is weight)
    check_trial(layer, forward, forward_of(layer), means)
    return Replacement(forward, weights)


def forward_of(layer: Any) -> Forward:
    """Return a layer's function by exact sums."""
    state, bias = layer.state, layer.bias

    def forward(rows: torch.Tensor) -> torch.Tensor:
        half, scale = rows.half().float(), state.SCB.float()
        outliers = (
            half.abs() >= state.threshold if state.threshold else torch.zeros_like(half, dtype=torch.bool)
        )
        apart = outliers.any(0)
        top = half.masked_fill(outliers, 0).abs().amax(1, keepdim=True)
        numbers = (half * (1.0 / top * 127.0)).nan_to_num(0, 0, 0).round().masked_fill(apart, 0)
        result = exact_sums(numbers, state.CB).float() * (top * scale) * FACTOR
        if bias is not None:
            result = result + bias.float()
        if apart.any():
            weight = (state.CB[:, apart].float() * scale[:, None] * OF_WEIGHT).to(rows.dtype)
            result = result.to(rows.dtype).float() + rows[:, apart].float() @ weight.float().T
        return result.to(rows.dtype)  # type: ignore[no-any-return]

    return forward
