"""Layers of `quantization=int8_dynamic`, as torch can compute them exactly on any CPU.

torchao quantizes weights with a scale for each output, and rows as they come with a scale for each
row. Its own product is slow on a CPU, and where the processor has no products of bytes (VNNI) its
sums may saturate without a word. So on a CPU it is never asked: the kernels do its arithmetic, or
these functions do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from runner_base.notes import Note, note
from runner_engine.kernels.shared_numbers import WeightFormat
from runner_engine.matmul.library_layers import (
    check_trial,
    formats_of,
    forward_by,
    in_large_pages,
    kernels_for,
)
from runner_engine.matmul.matrices import QuantizedWeights, shifted_sums
from runner_engine.matmul.replacing import Forward, Means, Replacement, UnsupportedLayer

EXACT_INPUTS = 1024  # so many products of bytes are at most 2 ** 24, up to which float32 holds every integer
LARGEST = 127.5  # torchao's scale is the largest number of a row, divided by this
LEAST_SCALE = 2.0**-23


def replacement(layer: Any, means: Means) -> Replacement:
    """Return what multiplies a layer by the kernels; where they cannot, torch does."""
    try:
        return _by_kernels(layer, means)
    except UnsupportedLayer as unsupported:
        if rejection_reason(layer):
            raise
        instead = note("multiplied_by_torch", what=type(layer).__name__)
        raise UnsupportedLayer(unsupported.reason, instead, forward_of(layer)) from unsupported


def is_dynamic(layer: nn.Module) -> bool:
    """Whether torchao quantizes the rows of a layer, too."""
    return getattr(getattr(layer, "weight", None), "act_quant_kwargs", None) is not None


def rejection_reason(layer: Any) -> Note | None:
    """Return why a layer's rows and weights are not those of `quantization=int8_dynamic`, None if
    they are."""
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


def _by_kernels(layer: Any, means: Means) -> Replacement:
    kernels_for(layer, means)
    if reason := rejection_reason(layer):
        raise UnsupportedLayer(reason)
    stored = layer.weight
    weight = in_large_pages(stored.qdata, means)
    scale, sums = stored.scale.flatten().contiguous(), shifted_sums(weight)
    formats = formats_of(layer.bias)
    weights = QuantizedWeights(WeightFormat.int8_dynamic, layer.in_features, layer.out_features, formats)
    weights.matrix.tile_rows = means.byte_tile_rows
    weights.point_at(weight, layer.bias, scale, sums)
    forward = forward_by(layer, weights, means, lambda: layer.weight is stored)
    check_trial(layer, forward, forward_of(layer), means)
    return Replacement(forward, weights)


def forward_of(layer: Any) -> Forward:
    """Return a layer's function by torch's exact sums; where its weight is not on a CPU any more,
    its own."""
    own, stored = layer.forward, layer.weight
    weight, scale = stored.qdata, stored.scale.flatten()

    def forward(rows: torch.Tensor) -> torch.Tensor:
        if layer.weight is not stored or rows.device.type != "cpu":
            return own(rows)  # type: ignore[no-any-return]
        return product(rows, weight, scale, layer.bias)

    return forward


def quantize_rows(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows [n, inputs] as whole numbers in float32, and the scale [n, 1] of each, as torchao
    does."""
    scale = (rows.abs().amax(-1, keepdim=True) / LARGEST).clamp(min=LEAST_SCALE).float()
    return (rows * (1.0 / scale)).round().clamp(-128, 127), scale


def exact_sums(numbers: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the int32 sums [n, outputs] of whole numbers [n, inputs] with int8 weights [outputs,
    inputs]."""
    sums = torch.zeros(len(numbers), len(weight), dtype=torch.int32)
    for first in range(0, numbers.shape[1], EXACT_INPUTS):
        part = slice(first, first + EXACT_INPUTS)
        sums += (numbers[:, part] @ weight[:, part].float().T).int()
    return sums


def product(
    rows: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Return [..., outputs] for rows [..., inputs] by weights int8 [outputs, inputs] with their
    scales [outputs]."""
    numbers, of_row = quantize_rows(rows.reshape(-1, rows.shape[-1]))
    result = (exact_sums(numbers, weight) * of_row).to(rows.dtype) * scale
    if bias is not None:
        result += bias
    return result.to(rows.dtype).reshape(*rows.shape[:-1], len(weight))
