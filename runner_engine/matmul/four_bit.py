"""Layers of 4-bit weights of bitsandbytes, nf4 and fp4: as it packs them for a CPU, or as it stores
them.

It packs them where the processor multiplies bfloat16. Elsewhere it unpacks a whole weight for each
product, and torch multiplies it slowly: the kernels look up the same weights some inputs of a panel
at a time (kernels/four_bit_rows.h), in the library's memory. Scales that are quantized themselves
are unpacked once: 1 / 16 byte a weight.
"""

from __future__ import annotations

from typing import Any

import torch

from runner_base.notes import Note, note
from runner_engine.kernels.native import Kernels
from runner_engine.kernels.shared_numbers import WeightFormat
from runner_engine.matmul.library_layers import PANEL, check_trial, is_of, kernels_for, let_rearrange
from runner_engine.matmul.matrices import QuantizedWeights, multiply
from runner_engine.matmul.replacing import Forward, Means, Replacement, UnsupportedLayer

INPUTS_AT_ONCE = 32  # share a scale at least: as in kernels/matrices.h


def replacement(layer: Any, means: Means) -> Replacement:
    """Return what multiplies a layer by the kernels."""
    kernels, own = kernels_for(layer, means), layer.forward
    let_rearrange(layer, means)
    if is_packed(layer):
        weights, forward = _by_packed(layer, means, kernels)
    else:
        weights, forward = _by_stored(layer, kernels)
    check_trial(layer, forward, own, means)
    return Replacement(forward, weights)


def is_packed(layer: Any) -> bool:
    """Whether the library has packed a layer's weights for this processor."""
    return bool(getattr(layer.weight.quant_state, "packing_format_for_cpu", False))


def _by_packed(layer: Any, means: Means, kernels: Kernels) -> tuple[QuantizedWeights, Forward]:
    """Return weights and function for the library's layout for this processor."""
    own, inputs, outputs = layer.forward, layer.in_features, layer.out_features
    state, workspace = layer.weight.quant_state, means.workspace
    block, table = state.blocksize, state.code.to(torch.bfloat16).repeat(2)
    fits = not inputs % block and not block % 2 and not outputs % PANEL
    if (
        not fits
        or table.numel() != 32
        or not kernels.has_quantized
        or state.absmax.dtype is not torch.bfloat16
    ):
        raise UnsupportedLayer(note("other_packing"))
    are_pairs = layer.compute_dtype in (None, torch.bfloat16) and is_of(layer.bias, torch.bfloat16)
    weights = QuantizedWeights(WeightFormat.four_bit, inputs, outputs, (torch.bfloat16,) if are_pairs else ())
    weights.matrix.block, weights.matrix.tile_rows = block, means.unpacked_tile_rows

    def forward(rows: torch.Tensor) -> torch.Tensor:
        weight = layer.weight
        state = weight.quant_state
        if not getattr(state, "packing_format_for_cpu", False) or not rows.numel():
            return own(rows)  # type: ignore[no-any-return]
        cast = rows.to(layer.compute_dtype or rows.dtype)
        bias = None if layer.bias is None else layer.bias.to(cast.dtype)
        # other formats get the bias without rounding it to bfloat16
        is_whole = cast.dtype is torch.bfloat16
        weights.point_at(weight.data, bias if is_whole else None, state.absmax, table)
        result = multiply(kernels, cast.to(torch.bfloat16), weights, workspace.of(rows)).to(cast.dtype)
        if bias is not None and not is_whole:
            result += bias
        return result.to(rows.dtype)

    weights.point_at(layer.weight.data, layer.bias, state.absmax, table)
    return weights, forward


def _by_stored(layer: Any, kernels: Kernels) -> tuple[QuantizedWeights, Forward]:
    """Return weights and function for weights as they are stored, where the library does not pack
    them."""
    if reason := rejection_reason(layer):
        raise UnsupportedLayer(reason)
    own, stored, state = layer.forward, layer.weight, layer.weight.quant_state
    weights = weights_of(layer)

    def forward(rows: torch.Tensor) -> torch.Tensor:
        if layer.weight is not stored or stored.quant_state is not state or not rows.numel():
            return own(rows)  # type: ignore[no-any-return]
        return multiply(kernels, rows.to(torch.bfloat16), weights).to(rows.dtype)

    return weights, forward


def rejection_reason(layer: Any) -> Note | None:
    """Return why the kernels cannot multiply a layer, None if they can."""
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
