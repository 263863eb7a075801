"""Multiplies torchao's weight-only int8 layers with bfloat16 activations.

The scale is applied after the matmul.
"""

from __future__ import annotations

from typing import Any

import torch

from runner_base.notes import note
from runner_engine.kernels.c_interface import WeightFormat
from runner_engine.matmul import int8_dynamic
from runner_engine.matmul.layer_replacement import KernelResources, LayerReplacement, UnsupportedLayer
from runner_engine.matmul.layer_weights import QuantizedWeights
from runner_engine.matmul.library_layers import (
    PANEL,
    build_kernel_forward,
    is_bias_absent_or_dtype,
    move_unmapped_weight_to_huge_pages,
    require_kernels_for_layer,
    require_layer_matches_reference,
    run_first_forward,
)


def build_replacement(layer: Any, resources: KernelResources) -> LayerReplacement:
    """Build a layer's forward function with the C kernels.

    `int8_dynamic` handles layers with quantized activations.
    """
    if int8_dynamic.quantizes_activations(layer):
        return int8_dynamic.build_replacement(layer, resources)
    require_kernels_for_layer(layer, resources)
    run_first_forward(layer, resources)
    own, stored = layer.forward, layer.weight
    weights = _build_int8_kernel_weights(layer, resources)
    forward = build_kernel_forward(layer, weights, resources, lambda: layer.weight is stored)
    require_layer_matches_reference(layer, forward, own, resources)
    return LayerReplacement(forward, weights)


def _build_int8_kernel_weights(layer: Any, resources: KernelResources) -> QuantizedWeights:
    inputs, outputs, stored = layer.in_features, layer.out_features, layer.weight
    weight, scale = stored.qdata, stored.scale.to(torch.bfloat16).flatten().contiguous()
    is_plain = (
        stored.act_quant_kwargs is None and stored.act_pre_scale is None and stored.block_size[-1] == inputs
    )
    if not (is_plain and weight.is_contiguous() and scale.numel() == outputs):
        raise UnsupportedLayer(note("other_storage"))
    if inputs % 4 or outputs % PANEL:
        raise UnsupportedLayer(note("other_sizes", outputs=PANEL))
    if not is_bias_absent_or_dtype(layer.bias, torch.bfloat16):
        raise UnsupportedLayer(note("other_bias_format"))
    weights = QuantizedWeights(WeightFormat.weight_int8, inputs, outputs, (torch.bfloat16,))
    weights.matrix.tile_rows = resources.unpacked_tile_rows
    weights.set_tensors_read_by_c(move_unmapped_weight_to_huge_pages(weight, resources), layer.bias, scale)
    return weights
