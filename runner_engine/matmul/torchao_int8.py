"""Layers of torchao's int8: weights alone, whose rows stay bfloat16 and whose scale is applied
last."""

from __future__ import annotations

from typing import Any

import torch

from runner_base.notes import note
from runner_engine.kernels.shared_numbers import WeightFormat
from runner_engine.matmul import int8_dynamic
from runner_engine.matmul.library_layers import (
    PANEL,
    check_trial,
    forward_by,
    in_large_pages,
    is_of,
    kernels_for,
    let_rearrange,
)
from runner_engine.matmul.matrices import QuantizedWeights
from runner_engine.matmul.replacing import Means, Replacement, UnsupportedLayer


def replacement(layer: Any, means: Means) -> Replacement:
    """Return what multiplies a layer by the kernels; where its rows are quantized, too, as
    int8_dynamic does."""
    if int8_dynamic.is_dynamic(layer):
        return int8_dynamic.replacement(layer, means)
    kernels_for(layer, means)
    let_rearrange(layer, means)
    own, stored = layer.forward, layer.weight
    weights = _weights_of(layer, means)
    forward = forward_by(layer, weights, means, lambda: layer.weight is stored)
    check_trial(layer, forward, own, means)
    return Replacement(forward, weights)


def _weights_of(layer: Any, means: Means) -> QuantizedWeights:
    """Return a layer's weights as C reads them, in the library's memory."""
    inputs, outputs, stored = layer.in_features, layer.out_features, layer.weight
    weight, scale = stored.qdata, stored.scale.to(torch.bfloat16).flatten().contiguous()
    is_plain = (
        stored.act_quant_kwargs is None and stored.act_pre_scale is None and stored.block_size[-1] == inputs
    )
    if not (is_plain and weight.is_contiguous() and scale.numel() == outputs):
        raise UnsupportedLayer(note("other_storage"))
    if inputs % 4 or outputs % PANEL:
        raise UnsupportedLayer(note("other_sizes", outputs=PANEL))
    if not is_of(layer.bias, torch.bfloat16):
        raise UnsupportedLayer(note("other_bias_format"))
    weights = QuantizedWeights(WeightFormat.weight_int8, inputs, outputs, (torch.bfloat16,))
    weights.matrix.tile_rows = means.unpacked_tile_rows
    weights.point_at(in_large_pages(weight, means), layer.bias, scale)
    return weights
