"""Multiplies int8 weights of a checkpoint by int8 activations (W8A8) with the C kernels.

The weights stay in the memory-mapped file. Activations get the bytes that
`Int8Layout.round_activations` gives them; sums are exact, and one multiplication by the scales of
activation and output ends them (kernels/int8_products.h), with the same bits on every processor.
"""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import nn

from runner_base.notes import Note, note
from runner_engine.checkpoints.pass_memory import compute_quantized_workspace_nbytes
from runner_engine.kernels.c_interface import WeightFormat
from runner_engine.kernels.native import FORMATS, Kernels
from runner_engine.matmul.layer_replacement import KernelResources, LayerReplacement
from runner_engine.matmul.layer_weights import (
    TOLERANCE,
    TRIAL_OUTPUTS,
    QuantizedWeights,
    compute_shift_correction,
    find_output_deviation,
    multiply_with_kernel,
)
from runner_engine.matmul.library_layers import build_kernel_forward
from runner_engine.models.grouped_linear import GroupedLinear
from runner_engine.models.layouts.int8 import Int8Layout

MOST_INPUTS = 65536  # sums of more may not fit into 32 bits: as in kernels/matrices.h
TRIAL_ROWS = (7, 3)  # with a remainder; and so few that no weight is unpacked


def build_replacement(layer: GroupedLinear, resources: KernelResources) -> LayerReplacement | None:
    """Build a forward function that reads int8 weights directly from the memory-mapped file.

    Returns None if this is unsupported.
    """
    if resources.kernels is None:
        return None
    if reason := find_kernel_problem(layer, resources.kernels, resources.byte_tile_rows):
        resources.add_note_once(note("slow_rounding", kind=layer.report_name, reason=reason))
        return None
    weights = build_kernel_weights(layer, resources.byte_tile_rows)
    return LayerReplacement(build_kernel_forward(layer, weights, resources, lambda: True), weights)


def is_w8a8_layer(layer: nn.Module) -> TypeGuard[GroupedLinear]:
    return (
        isinstance(layer, GroupedLinear) and isinstance(layer.layout, Int8Layout) and bool(layer.layout.rows)
    )


def build_kernel_weights(
    layer: GroupedLinear, tile_rows: int, outputs: int | None = None, has_bias: bool = True
) -> QuantizedWeights:
    """Describe the weights of a layer, or of its first outputs only, for the C kernels.

    The weights are not copied.
    """
    layout, stored, outputs = layer.layout, layer.stored, outputs or layer.out_features
    assert isinstance(layout, Int8Layout)
    weight = layer.weight.detach()[:outputs]
    scale = layout.scales(stored, 0, outputs).detach().float().flatten().contiguous()
    bias = layer.bias.detach()[:outputs].contiguous() if has_bias and layer.bias is not None else None
    formats = tuple(FORMATS) if bias is None else (bias.dtype,)
    it = QuantizedWeights(WeightFormat.int8_stored, layer.in_features, outputs, formats)
    it.matrix.tile_rows = tile_rows
    it.matrix.row_scale, it.matrix.zero_point = (
        layout.get_activation_scale(stored),
        layout.get_activation_zero_point(stored),
    )
    it.set_tensors_read_by_c(weight, bias, scale, compute_shift_correction(weight))
    return it


_tried: dict[tuple[object, ...], Note | None] = {}  # what is wrong with products of a kind of layers


def find_kernel_problem(layer: GroupedLinear, kernels: Kernels, tile_rows: int) -> Note | None:
    """Return the reason why the C kernels cannot multiply a layer, or None if they can.

    Compares one layer of each format with torch.
    """
    if layer.weight.device.type != "cpu":
        return note("not_on_cpu")
    if layer.in_features > MOST_INPUTS:
        return note("too_many_inputs", most=MOST_INPUTS)
    if layer.bias is not None and layer.bias.dtype not in FORMATS:
        return note("other_bias_format")
    assert isinstance(layer.layout, Int8Layout)
    key = (
        layer.layout,
        layer.layout.get_activation_scale(layer.stored),
        layer.layout.get_activation_zero_point(layer.stored),
    )
    if key not in _tried:
        found = (
            _compare_with_torch(layer, dtype, count, kernels, tile_rows)
            for dtype in FORMATS
            for count in TRIAL_ROWS
        )
        _tried[key] = next(filter(None, found), None)
    return _tried[key]


def _compare_with_torch(
    layer: GroupedLinear, dtype: torch.dtype, num_rows: int, kernels: Kernels, tile_rows: int
) -> Note | None:
    outputs, inputs = min(TRIAL_OUTPUTS, layer.out_features), layer.in_features
    # it is added in the same way to every product
    trial = build_kernel_weights(layer, tile_rows, outputs, has_bias=False)
    workspace = torch.empty(
        compute_quantized_workspace_nbytes(num_rows, inputs, torch.get_num_threads()), dtype=torch.uint8
    )
    rows = torch.randn(
        num_rows, inputs, generator=torch.Generator().manual_seed(num_rows), dtype=torch.float32
    ).to(dtype)
    with torch.no_grad():
        expected = nn.functional.linear(
            layer.round_activations(rows), layer.dequantize_outputs(0, outputs, dtype)
        )
        return find_output_deviation(
            multiply_with_kernel(kernels, rows, trial, workspace), expected, TOLERANCE[dtype]
        )
