"""Multiplies LLM.int8() layers.

Weights and activations are int8, except outlier columns, which keep a higher precision.

The kernels are checked against torch steps with exact sums. The library itself uses torch's int8
matmul, which saturates where ONEDNN_MAX_CPU_ISA hides VNNI from oneDNN: torch asks the processor
itself whether it has VNNI.
"""

from __future__ import annotations

from typing import Any

import torch

from runner_base.notes import note
from runner_engine.kernels.c_interface import WeightFormat
from runner_engine.matmul.int8_dynamic import multiply_int8_exactly
from runner_engine.matmul.layer_replacement import (
    Forward,
    KernelResources,
    LayerReplacement,
    UnsupportedLayer,
)
from runner_engine.matmul.layer_weights import QuantizedWeights, compute_shift_correction
from runner_engine.matmul.library_layers import (
    build_kernel_forward,
    list_supported_dtypes,
    move_unmapped_weight_to_huge_pages,
    require_kernels_for_layer,
    require_layer_matches_reference,
    run_first_forward,
)

FACTOR = 6.200124e-05  # 1 / 127 / 127, and 1 / 127, as the library rounds them
OF_WEIGHT = 7.874015718698502e-3


def build_replacement(layer: Any, resources: KernelResources) -> LayerReplacement:
    require_kernels_for_layer(layer, resources)
    run_first_forward(layer, resources)
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
        move_unmapped_weight_to_huge_pages(stored, resources),
        compute_shift_correction(stored),
    )
    if is_shared:
        layer.weight.data = weight  # or what it was would stay in memory
    weights = QuantizedWeights(
        WeightFormat.row_int8, layer.in_features, layer.out_features, list_supported_dtypes(bias)
    )
    weights.matrix.threshold, weights.matrix.tile_rows = state.threshold, resources.byte_tile_rows
    weights.set_tensors_read_by_c(weight, bias, scale, sums)
    forward = build_kernel_forward(layer, weights, resources, lambda: state.CB is weight)
    require_layer_matches_reference(layer, forward, build_exact_forward(layer), resources)
    return LayerReplacement(forward, weights)


def build_exact_forward(layer: Any) -> Forward:
    """Build a forward function that computes an LLM.int8() layer with exact integer sums."""
    state, bias = layer.state, layer.bias

    def forward(activations: torch.Tensor) -> torch.Tensor:
        half, scale = activations.half().float(), state.SCB.float()
        outliers = (
            half.abs() >= state.threshold if state.threshold else torch.zeros_like(half, dtype=torch.bool)
        )
        apart = outliers.any(0)
        top = half.masked_fill(outliers, 0).abs().amax(1, keepdim=True)
        numbers = (half * (1.0 / top * 127.0)).nan_to_num(0, 0, 0).round().masked_fill(apart, 0)
        result = multiply_int8_exactly(numbers, state.CB).float() * (top * scale) * FACTOR
        if bias is not None:
            result = result + bias.float()
        if apart.any():
            weight = (state.CB[:, apart].float() * scale[:, None] * OF_WEIGHT).to(activations.dtype)
            result = result.to(activations.dtype).float() + activations[:, apart].float() @ weight.float().T
        return result.to(activations.dtype)  # type: ignore[no-any-return]

    return forward
