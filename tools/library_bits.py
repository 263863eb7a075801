"""Whether a layer that was quantized while its model was read has the bits that the library gives
the same matrix."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from runner_engine.models.loading import made_groups
from runner_engine.quantization.base import OwnLayers


def made_by_library(base: Any, choice: Any, layer: Any) -> Any:
    """Return a linear layer of ordinary memory as the library of a choice quantizes it; base: the
    loaded model."""
    single = nn.Linear(
        layer.in_features, layer.out_features, bias=layer.bias is not None, dtype=torch.bfloat16
    )
    single.weight.data.copy_(layer.weight)
    if layer.bias is not None:
        single.bias.data.copy_(layer.bias)
    single.requires_grad_(False)
    if choice.own_layers is OwnLayers.made_groups:
        return made_groups.quantize_linear(choice, single, "")
    return choice.quantize_layer(base.model, single)


def are_equal(first: Any, second: Any) -> bool:
    """Whether two quantized layers consist of the same bits."""
    pairs = list(zip(_held(first), _held(second), strict=True))
    return bool(pairs) and all(torch.equal(_numbers(one), _numbers(other)) for one, other in pairs)


def _held(layer: Any) -> list[torch.Tensor]:
    """Return all numbers that a quantized layer consists of."""
    found = [*layer._parameters.values(), *layer._buffers.values()]
    if hasattr(layer.weight, "quant_state"):
        state = layer.weight.quant_state
        found += [state.absmax, state.offset, state.state2.absmax]
    if hasattr(layer.weight, "SCB"):
        found.append(layer.weight.SCB)
    if hasattr(layer.weight, "qdata"):
        found += [layer.weight.qdata, layer.weight.scale]
    return [one.detach() for one in found if one is not None]


def _numbers(tensor: Any) -> torch.Tensor:
    is_plain = type(tensor) in (torch.Tensor, nn.Parameter)
    numbers: torch.Tensor = tensor.float() if is_plain else tensor.dequantize()
    return numbers
