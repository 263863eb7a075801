"""Multiplies layers of `quantization=int8_dynamic` with exact integer sums on every CPU.

torchao quantizes weights with one scale per output, and activations with one scale per token. Its
own matmul is slow on a CPU, and without int8 instructions (VNNI) its sums may saturate silently. So
on a CPU either the kernels or these functions replace it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from runner_base.notes import Note, note
from runner_engine.kernels.c_interface import WeightFormat
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
)

EXACT_INPUTS = 1024  # so many products of bytes are at most 2 ** 24, up to which float32 holds every integer
LARGEST = 127.5  # torchao's scale is the largest number of a row, divided by this
LEAST_SCALE = 2.0**-23


def build_replacement(layer: Any, resources: KernelResources) -> LayerReplacement:
    """Build a layer's forward function.

    Uses the C kernels, or exact integer sums in torch if the kernels are unavailable.
    """
    try:
        return _build_int8_layer_replacement(layer, resources)
    except UnsupportedLayer as unsupported:
        if find_rejection_reason(layer):
            raise
        instead = note("multiplied_by_torch", what=type(layer).__name__)
        raise UnsupportedLayer(unsupported.reason, instead, build_exact_forward(layer)) from unsupported


def quantizes_activations(layer: nn.Module) -> bool:
    """Whether torchao quantizes the activations of a layer in addition to its weights."""
    return getattr(getattr(layer, "weight", None), "act_quant_kwargs", None) is not None


def find_rejection_reason(layer: Any) -> Note | None:
    """Return the reason why a layer's format is not that of `quantization=int8_dynamic`, or None."""
    from torchao.quantization import MappingType, PerRow

    weight = layer.weight
    rows = weight.act_quant_kwargs
    is_by_row = isinstance(rows.granularity, PerRow) and rows.mapping_type is MappingType.SYMMETRIC
    is_as_they_come = (
        weight.act_pre_scale is None and weight.act_quant_scale is None and not rows.reduce_range
    )
    if not (is_by_row and is_as_they_come):
        return note("other_rows")
    is_by_output = weight.block_size[-1] == layer.in_features and weight.scale.numel() == layer.out_features
    is_readable = weight.qdata.is_contiguous() and weight.scale.dtype is torch.float32
    return None if is_by_output and is_readable else note("other_storage")


def _build_int8_layer_replacement(layer: Any, resources: KernelResources) -> LayerReplacement:
    require_kernels_for_layer(layer, resources)
    if reason := find_rejection_reason(layer):
        raise UnsupportedLayer(reason)
    stored = layer.weight
    weight = move_unmapped_weight_to_huge_pages(stored.qdata, resources)
    scale, sums = stored.scale.flatten().contiguous(), compute_shift_correction(weight)
    formats = list_supported_dtypes(layer.bias)
    weights = QuantizedWeights(WeightFormat.int8_dynamic, layer.in_features, layer.out_features, formats)
    weights.matrix.tile_rows = resources.byte_tile_rows
    weights.set_tensors_read_by_c(weight, layer.bias, scale, sums)
    forward = build_kernel_forward(layer, weights, resources, lambda: layer.weight is stored)
    require_layer_matches_reference(layer, forward, build_exact_forward(layer), resources)
    return LayerReplacement(forward, weights)


def build_exact_forward(layer: Any) -> Forward:
    """Build a forward function with exact integer sums in torch.

    On devices other than the CPU, it calls the layer's own forward.
    """
    own, stored = layer.forward, layer.weight
    weight, scale = stored.qdata, stored.scale.flatten()

    def forward(activations: torch.Tensor) -> torch.Tensor:
        if layer.weight is not stored or activations.device.type != "cpu":
            return own(activations)  # type: ignore[no-any-return]
        return multiply_quantized_activations_exactly(activations, weight, scale, layer.bias)

    return forward


def quantize_activations(activations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize activations as torchao does.

    Returns integers in float32 and scales [n, 1].
    """
    scale = (activations.abs().amax(-1, keepdim=True) / LARGEST).clamp(min=LEAST_SCALE).float()
    return (activations * (1.0 / scale)).round().clamp(-128, 127), scale


def multiply_int8_exactly(activations: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return exact int32 products of integer activations [n, inputs] and int8 weights [outputs, inputs]."""
    sums = torch.zeros(len(activations), len(weight), dtype=torch.int32)
    for first in range(0, activations.shape[1], EXACT_INPUTS):
        part = slice(first, first + EXACT_INPUTS)
        sums += (activations[:, part] @ weight[:, part].float().T).int()
    return sums


def multiply_quantized_activations_exactly(
    activations: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Quantize activations [..., inputs] and multiply them exactly by int8 weights.

    Weights are [outputs, inputs], and their scales are [outputs].
    """
    numbers, of_row = quantize_activations(activations.reshape(-1, activations.shape[-1]))
    result = (multiply_int8_exactly(numbers, weight) * of_row).to(activations.dtype) * scale
    if bias is not None:
        result += bias
    return result.to(activations.dtype).reshape(*activations.shape[:-1], len(weight))
