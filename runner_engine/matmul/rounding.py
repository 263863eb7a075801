"""Trials in which quantized layers multiply rows as they come, without rounding them to 8 bits.

In a trained model a few numbers of a row are hundreds of times as large as the others, which then
round to a few whole numbers. A last bit of bfloat16 moves some of them by a whole step, and that
grows from layer to layer: logits move by a third of their spread wherever a pass is split
otherwise, those of the model's own passes, too. No tolerance would tell that from a wrong mask. So
a trial of attention leaves the rounding out.
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
from runner_engine.models.grouped import GroupedLinear
from runner_engine.models.layouts.int8 import Int8Layout
from runner_engine.models.layouts.made import MadeLayout

Shares = dict[str, float]  # by a layer's name, of the numbers of its middle row
NAMED = 3  # layers in a note
UNSTABLE = 0.9  # of a row's numbers round to 0: what is left of the others is a sign, or nothing


def _weights_of(layer: Any, dtype: torch.dtype) -> torch.Tensor:
    """Return the unpacked weights of a layer whose library rounds rows."""
    if _is_llm_int8(layer):
        state = layer.state
        codes, scale = (layer.weight.data, layer.weight.SCB) if state.CB is None else (state.CB, state.SCB)
        unpacked: torch.Tensor = codes.float() * (scale.float() * OF_WEIGHT)[:, None]
    else:
        unpacked = layer.weight.dequantize()
    return unpacked.to(dtype)


def _is_rounding(layer: nn.Module) -> bool:
    """Whether a layer rounds its rows to 8 bits; an adapter's layer around it does not."""
    if isinstance(layer, GgufLinear | GroupedLinear):
        return layer.has_byte_rows or (isinstance(layer, GroupedLinear) and bool(layer.layout.rows))
    return isinstance(layer, nn.Linear) and (_is_llm_int8(layer) or int8_dynamic.is_dynamic(layer))


def _is_llm_int8(layer: Any) -> bool:
    return type(layer).__name__ == "Linear8bitLt" and not layer.state.has_fp16_weights


def rounding_layers(model: nn.Module) -> dict[str, Any]:
    """Return the layers of a model that round rows to 8 bits, by their names."""
    return {name: layer for name, layer in model.named_modules() if _is_rounding(layer)}


@contextmanager
def unrounded_rows(model: nn.Module) -> Iterator[Shares]:
    """Let layers multiply rows as they come; gives the share of a row that each would round to
    0."""
    layers, shares = rounding_layers(model), Shares()
    replaced = {name: vars(layer).get("forward") for name, layer in layers.items()}
    for name, layer in layers.items():
        layer.forward = _unrounded(name, layer, shares)
    try:
        yield shares
    finally:
        for name, layer in layers.items():
            del layer.forward
            if (before := replaced[name]) is not None:
                layer.forward = before


def _unrounded(name: str, layer: Any, shares: Shares) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a layer's product with rows as they come."""
    in_one_scale = int8_dynamic.is_dynamic(layer)
    if isinstance(layer, GroupedLinear) and layer.layout.rows:
        in_one_scale = isinstance(layer.layout, Int8Layout | MadeLayout)

    def forward(rows: torch.Tensor) -> torch.Tensor:
        if in_one_scale:
            each = rows.reshape(-1, rows.shape[-1]).float().abs()
            lost = (each * (2 * LARGEST) < each.amax(-1, keepdim=True)).float().mean(-1)
            shares[name] = max(shares.get(name, 0.0), float(lost.median()))
        if isinstance(layer, GgufLinear | GroupedLinear):
            return layer.multiplied(rows)
        return nn.functional.linear(rows, _weights_of(layer, rows.dtype), layer.bias)

    return forward


def note_on(shares: Shares) -> Note | None:
    """Name the layers in whose rows a few numbers are so large that most others round to 0; None
    if there are none."""
    worst = sorted(
        (name for name, share in shares.items() if share > UNSTABLE), key=lambda name: -shares[name]
    )
    if not worst:
        return None
    named = {name: shares[name] for name in worst[:NAMED]}
    return note("unstable_rows", layers=named, more=len(worst) - len(named), times=2 * LARGEST)
