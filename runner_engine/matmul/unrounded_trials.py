"""Turns off the 8-bit rounding of activations while compatibility tests compare model outputs.

In a trained model a few activations are hundreds of times larger than the others, which then
round to a few integers. The last bit of bfloat16 moves some of them by a whole step, and that
grows from layer to layer: logits move by a third of their spread wherever a pass is split
differently, also in the model's own passes. No tolerance would distinguish that from a wrong
mask. So a trial of attention omits the rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from runner_base.notes import Note, note
from runner_engine.matmul import int8_dynamic
from runner_engine.matmul.int8_dynamic import LARGEST
from runner_engine.matmul.llm_int8 import OF_WEIGHT
from runner_engine.models.gguf_blocks import GgufLinear
from runner_engine.models.grouped_linear import GroupedLinear
from runner_engine.models.layouts.int8 import Int8Layout
from runner_engine.models.layouts.load_time import LoadTimeLayout

SharesByLayer = dict[str, float]  # by a layer's name, of the numbers of its middle row
NAMED = 3  # layers in a note
UNSTABLE = 0.9  # of a row's numbers round to 0: what is left of the others is a sign, or nothing


def _dequantize_weights(layer: Any, dtype: torch.dtype) -> torch.Tensor:
    if _is_llm_int8(layer):
        state = layer.state
        codes, scale = (layer.weight.data, layer.weight.SCB) if state.CB is None else (state.CB, state.SCB)
        unpacked: torch.Tensor = codes.float() * (scale.float() * OF_WEIGHT)[:, None]
    else:
        unpacked = layer.weight.dequantize()
    return unpacked.to(dtype)


def _rounds_activations_to_8_bits(layer: nn.Module) -> bool:
    """Whether a layer rounds its activations to 8 bits.

    False for the wrapper of an adapter around the layer.
    """
    if isinstance(layer, GgufLinear | GroupedLinear):
        return layer.has_byte_rows or (isinstance(layer, GroupedLinear) and bool(layer.layout.rows))
    return isinstance(layer, nn.Linear) and (_is_llm_int8(layer) or int8_dynamic.quantizes_activations(layer))


def _is_llm_int8(layer: Any) -> bool:
    return type(layer).__name__ == "Linear8bitLt" and not layer.state.has_fp16_weights


def find_rounding_layers(model: nn.Module) -> dict[str, Any]:
    return {name: layer for name, layer in model.named_modules() if _rounds_activations_to_8_bits(layer)}


@contextmanager
def disable_activation_rounding(model: nn.Module) -> Iterator[SharesByLayer]:
    """Context manager in which quantized layers do not round their activations to 8 bits.

    Yields the share of a typical activation vector that each layer would round to 0.
    """
    layers, shares = find_rounding_layers(model), SharesByLayer()
    replaced = {name: vars(layer).get("forward") for name, layer in layers.items()}
    for name, layer in layers.items():
        layer.forward = _build_forward_without_activation_rounding(name, layer, shares)
    try:
        yield shares
    finally:
        for name, layer in layers.items():
            del layer.forward
            if (before := replaced[name]) is not None:
                layer.forward = before


def _build_forward_without_activation_rounding(
    layer_name: str, layer: Any, rounded_to_zero_shares: SharesByLayer
) -> Callable[[torch.Tensor], torch.Tensor]:
    in_one_scale = int8_dynamic.quantizes_activations(layer)
    if isinstance(layer, GroupedLinear) and layer.layout.rows:
        in_one_scale = isinstance(layer.layout, Int8Layout | LoadTimeLayout)

    def forward(activations: torch.Tensor) -> torch.Tensor:
        if in_one_scale:
            each = activations.reshape(-1, activations.shape[-1]).float().abs()
            lost = (each * (2 * LARGEST) < each.amax(-1, keepdim=True)).float().mean(-1)
            rounded_to_zero_shares[layer_name] = max(
                rounded_to_zero_shares.get(layer_name, 0.0), float(lost.median())
            )
        if isinstance(layer, GgufLinear | GroupedLinear):
            return layer.multiply_dequantized(activations)
        return nn.functional.linear(activations, _dequantize_weights(layer, activations.dtype), layer.bias)

    return forward


def make_unstable_layers_note(rounded_to_zero_shares: SharesByLayer) -> Note | None:
    worst = sorted(
        (name for name, share in rounded_to_zero_shares.items() if share > UNSTABLE),
        key=lambda name: -rounded_to_zero_shares[name],
    )
    if not worst:
        return None
    named = {name: rounded_to_zero_shares[name] for name in worst[:NAMED]}
    return note("unstable_rows", layers=named, more=len(worst) - len(named), times=2 * LARGEST)
