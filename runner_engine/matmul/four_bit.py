"""Multiplies bitsandbytes' 4-bit weights (nf4 and fp4), either packed for the CPU or as stored.

bitsandbytes packs them where the processor multiplies bfloat16. Elsewhere it dequantizes a whole
weight for each matmul, and torch multiplies it slowly: the kernels look up the same weights a few
inputs at a time (kernels/four_bit_rows.h), in the library's memory. Scales that are quantized
themselves are dequantized once: 1 / 16 byte a weight.
"""

from __future__ import annotations

from typing import Any

import torch

from runner_base.notes import Note, note
from runner_engine.kernels.c_interface import WeightFormat
from runner_engine.kernels.native import Kernels
from runner_engine.matmul.layer_replacement import (
    Forward,
    KernelResources,
    LayerReplacement,
    UnsupportedLayer,
)
from runner_engine.matmul.layer_weights import QuantizedWeights, multiply_with_kernel
from runner_engine.matmul.library_layers import (
    PANEL,
    is_bias_absent_or_dtype,
    require_kernels_for_layer,
    require_layer_matches_reference,
    run_first_forward,
)

INPUTS_AT_ONCE = 32  # share a scale at least: as in kernels/matrices.h


def build_replacement(layer: Any, resources: KernelResources) -> LayerReplacement:
    kernels, own = require_kernels_for_layer(layer, resources), layer.forward
    run_first_forward(layer, resources)
    if is_packed_for_cpu(layer):
        weights, forward = _build_matmul_on_packed_weights(layer, resources, kernels)
    else:
        weights, forward = _build_forward_using_stored_weights(layer, kernels)
    require_layer_matches_reference(layer, forward, own, resources)
    return LayerReplacement(forward, weights)


def is_packed_for_cpu(layer: Any) -> bool:
    """Whether bitsandbytes has packed a layer's weights for this processor."""
    return bool(getattr(layer.weight.quant_state, "packing_format_for_cpu", False))


def _build_matmul_on_packed_weights(
    layer: Any, resources: KernelResources, kernels: Kernels
) -> tuple[QuantizedWeights, Forward]:
    own, inputs, outputs = layer.forward, layer.in_features, layer.out_features
    state, workspace = layer.weight.quant_state, resources.workspace
    block, table = state.blocksize, state.code.to(torch.bfloat16).repeat(2)
    fits = not inputs % block and not block % 2 and not outputs % PANEL
    if (
        not fits
        or table.numel() != 32
        or not kernels.has_quantized
        or state.absmax.dtype is not torch.bfloat16
    ):
        raise UnsupportedLayer(note("other_packing"))
    are_pairs = layer.compute_dtype in (None, torch.bfloat16) and is_bias_absent_or_dtype(
        layer.bias, torch.bfloat16
    )
    weights = QuantizedWeights(WeightFormat.four_bit, inputs, outputs, (torch.bfloat16,) if are_pairs else ())
    weights.matrix.block, weights.matrix.tile_rows = block, resources.unpacked_tile_rows

    def forward(activations: torch.Tensor) -> torch.Tensor:
        weight = layer.weight
        state = weight.quant_state
        if not getattr(state, "packing_format_for_cpu", False) or not activations.numel():
            return own(activations)  # type: ignore[no-any-return]
        cast = activations.to(layer.compute_dtype or activations.dtype)
        bias = None if layer.bias is None else layer.bias.to(cast.dtype)
        # other formats get the bias without rounding it to bfloat16
        is_whole = cast.dtype is torch.bfloat16
        weights.set_tensors_read_by_c(weight.data, bias if is_whole else None, state.absmax, table)
        result = multiply_with_kernel(
            kernels, cast.to(torch.bfloat16), weights, workspace.get_buffer(activations)
        ).to(cast.dtype)
        if bias is not None and not is_whole:
            result += bias
        return result.to(activations.dtype)

    weights.set_tensors_read_by_c(layer.weight.data, layer.bias, state.absmax, table)
    return weights, forward


def _build_forward_using_stored_weights(layer: Any, kernels: Kernels) -> tuple[QuantizedWeights, Forward]:
    if reason := find_rejection_reason(layer):
        raise UnsupportedLayer(reason)
    own, stored, state = layer.forward, layer.weight, layer.weight.quant_state
    weights = build_kernel_weights(layer)

    def forward(activations: torch.Tensor) -> torch.Tensor:
        if layer.weight is not stored or stored.quant_state is not state or not activations.numel():
            return own(activations)  # type: ignore[no-any-return]
        return multiply_with_kernel(kernels, activations.to(torch.bfloat16), weights).to(activations.dtype)

    return weights, forward


def find_rejection_reason(layer: Any) -> Note | None:
    """Return the reason why the C kernels cannot multiply a layer, or None if they can."""
    state = layer.weight.quant_state
    if layer.compute_dtype not in (None, torch.bfloat16) or (
        layer.bias is not None and layer.bias.dtype is not torch.bfloat16
    ):
        return note("products_not_bfloat16")
    is_whole = (
        tuple(state.shape) == (layer.out_features, layer.in_features) and layer.weight.data.is_contiguous()
    )
    fits = not state.blocksize % INPUTS_AT_ONCE and not layer.in_features % state.blocksize
    return None if is_whole and fits and state.code.numel() == 16 else note("blocks_across_rows")


def build_kernel_weights(layer: Any) -> QuantizedWeights:
    """Describe a layer's weights for the C kernels without copying them."""
    state, outputs = layer.weight.quant_state, layer.out_features
    it = QuantizedWeights(WeightFormat.four_bit_rows, layer.in_features, outputs, (torch.bfloat16,))
    it.matrix.block = state.blocksize
    codes, table = layer.weight.data.view(torch.uint8), state.code.float().contiguous()
    it.set_tensors_read_by_c(codes, layer.bias, _dequantize_scales(state).view(outputs, -1), table)
    return it


def _dequantize_scales(quantization_state: Any) -> torch.Tensor:
    if not quantization_state.nested:
        return quantization_state.absmax.float()  # type: ignore[no-any-return]
    from bitsandbytes.functional import dequantize_blockwise

    scales = dequantize_blockwise(quantization_state.absmax, quantization_state.state2)
    return (scales + quantization_state.offset).float()  # type: ignore[no-any-return]
