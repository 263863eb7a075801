"""Dequantizes layers so that an adapter can be merged into their weights."""

from __future__ import annotations

from copy import copy
from typing import Any

import torch
from torch import nn

from runner_engine.models.grouped_linear import GroupedLinear


def has_unquantized_weight(layer: nn.Module) -> bool:
    """Whether a layer's weight is unquantized. True for layers without a weight."""
    weight = layer._parameters.get("weight")
    known = not isinstance(layer, GroupedLinear) and not type(layer).__module__.startswith("bitsandbytes.")
    is_number = weight is None or (type(weight.data) is torch.Tensor and weight.is_floating_point())
    return known and is_number


def dequantize_linear(layer: Any, dtype: torch.dtype) -> nn.Linear | None:
    """Convert a quantized layer to an unquantized nn.Linear. Returns None for an unsupported class
    of layer.
    """
    weight = _dequantize_weight(layer, dtype)
    if weight is None:
        return None
    with torch.device("meta"):
        plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
    plain.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    plain.bias = layer.bias
    plain.train(layer.training)
    return plain


def _dequantize_weight(layer: Any, dtype: torch.dtype) -> torch.Tensor | None:
    """Dequantize a layer's weight, [outputs, inputs]."""
    if isinstance(layer, GroupedLinear):
        return layer.dequantize_outputs(0, layer.out_features, dtype)
    weight = layer.weight
    kind = type(weight).__name__
    if kind == "Params4bit":
        from bitsandbytes.functional import dequantize_4bit

        state = copy(weight.quant_state)
        state.dtype = dtype  # each number is the value of a code times a scale, rounded once
        return dequantize_4bit(weight.data, state)
    if kind == "Int8Params":
        from bitsandbytes.functional import int8_vectorwise_dequant

        scales = weight.SCB if layer.state.SCB is None else layer.state.SCB
        return int8_vectorwise_dequant(weight.data, scales)  # type: ignore[no-any-return]
    if type(weight.data).__module__.startswith("torchao."):
        return weight.dequantize()  # type: ignore[no-any-return]
    return None
