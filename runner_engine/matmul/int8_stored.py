"""Layers of int8 weights and int8 rows that a checkpoint holds (W8A8), as the kernels multiply
them.

The bytes of the weights stay where they are, in the mapped file. Rows get the bytes that
`Int8Layout.prepared` gives them; sums are exact, and one product by the scales of row and output
ends them (kernels/int8_products.h), with the same bits on every processor.
"""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import nn

from runner_base.notes import Note, note
from runner_engine.checkpoints.pass_memory import quantized_workspace_bytes
from runner_engine.kernels.native import FORMATS, Kernels
from runner_engine.kernels.shared_numbers import WeightFormat
from runner_engine.matmul.library_layers import forward_by
from runner_engine.matmul.matrices import (
    TOLERANCE,
    TRIAL_OUTPUTS,
    QuantizedWeights,
    difference,
    multiply,
    shifted_sums,
)
from runner_engine.matmul.replacing import Means, Replacement
from runner_engine.models.grouped import GroupedLinear
from runner_engine.models.layouts.int8 import Int8Layout

MOST_INPUTS = 65536  # sums of more may not fit into 32 bits: as in kernels/matrices.h
TRIAL_ROWS = (7, 3)  # with a remainder; and so few that no weight is unpacked


def replacement(layer: GroupedLinear, means: Means) -> Replacement | None:
    """Return what multiplies rows and weights as bytes, which stay in their file; None where the
    kernels cannot."""
    if means.kernels is None:
        return None
    if reason := problem(layer, means.kernels, means.byte_tile_rows):
        means.note(note("slow_rounding", kind=layer.class_name, reason=reason))
        return None
    weights = weights_of(layer, means.byte_tile_rows)
    return Replacement(forward_by(layer, weights, means, lambda: True), weights)


def is_of_bytes(layer: nn.Module) -> TypeGuard[GroupedLinear]:
    """Whether a layer holds int8, and rounds its rows to int8."""
    return (
        isinstance(layer, GroupedLinear) and isinstance(layer.layout, Int8Layout) and bool(layer.layout.rows)
    )


def weights_of(
    layer: GroupedLinear, tile_rows: int, outputs: int | None = None, has_bias: bool = True
) -> QuantizedWeights:
    """Return a layer's weights, or those of its first outputs, as C reads them, without a copy of
    the bytes."""
    layout, stored, outputs = layer.layout, layer.stored, outputs or layer.out_features
    assert isinstance(layout, Int8Layout)
    weight = layer.weight.detach()[:outputs]
    scale = layout.scales(stored, 0, outputs).detach().float().flatten().contiguous()
    bias = layer.bias.detach()[:outputs].contiguous() if has_bias and layer.bias is not None else None
    formats = tuple(FORMATS) if bias is None else (bias.dtype,)
    it = QuantizedWeights(WeightFormat.int8_stored, layer.in_features, outputs, formats)
    it.matrix.tile_rows = tile_rows
    it.matrix.row_scale, it.matrix.zero_point = (layout.row_scale(stored), layout.row_zero_point(stored))
    it.point_at(weight, bias, scale, shifted_sums(weight))
    return it


_tried: dict[tuple[object, ...], Note | None] = {}  # what is wrong with products of a kind of layers


def problem(layer: GroupedLinear, kernels: Kernels, tile_rows: int) -> Note | None:
    """Return why the kernels cannot multiply a layer; None if they can. One layer of each kind is
    tried beside torch."""
    if layer.weight.device.type != "cpu":
        return note("not_on_cpu")
    if layer.in_features > MOST_INPUTS:
        return note("too_many_inputs", most=MOST_INPUTS)
    if layer.bias is not None and layer.bias.dtype not in FORMATS:
        return note("other_bias_format")
    assert isinstance(layer.layout, Int8Layout)
    key = (layer.layout, layer.layout.row_scale(layer.stored), layer.layout.row_zero_point(layer.stored))
    if key not in _tried:
        found = (
            _difference(layer, dtype, count, kernels, tile_rows) for dtype in FORMATS for count in TRIAL_ROWS
        )
        _tried[key] = next(filter(None, found), None)
    return _tried[key]


def _difference(
    layer: GroupedLinear, dtype: torch.dtype, count: int, kernels: Kernels, tile_rows: int
) -> Note | None:
    outputs, inputs = min(TRIAL_OUTPUTS, layer.out_features), layer.in_features
    # it is added in the same way to every product
    trial = weights_of(layer, tile_rows, outputs, has_bias=False)
    workspace = torch.empty(
        quantized_workspace_bytes(count, inputs, torch.get_num_threads()), dtype=torch.uint8
    )
    rows = torch.randn(count, inputs, generator=torch.Generator().manual_seed(count), dtype=torch.float32).to(
        dtype
    )
    with torch.no_grad():
        expected = nn.functional.linear(layer.prepared(rows), layer.unpacked(0, outputs, dtype))
        return difference(multiply(kernels, rows, trial, workspace), expected, TOLERANCE[dtype])
