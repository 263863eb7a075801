"""Layers of int8 weights and rows, as a checkpoint holds them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from runner_engine.models.grouped_linear import GroupedLinear
from runner_engine.models.layouts.int8 import Int8Layout


@dataclass(frozen=True)
class Kind:
    """How a layer's rows and weights are quantized."""

    row_scale: float = 0.0  # 0: each row has its own
    zero_point: int | None = None
    is_by_output: bool = True


KINDS = {
    "dynamic": Kind(),
    "dynamic, one scale for all weights": Kind(is_by_output=False),
    "static": Kind(0.031),
    "static with a zero point": Kind(0.017, -77),
    "static with the other end": Kind(2e-5, 127),
}


def layer_of(inputs: int, outputs: int, kind: Kind, bias: torch.dtype | None = None) -> GroupedLinear:
    """A layer as a checkpoint holds it."""
    random = torch.Generator().manual_seed(inputs + outputs)
    like = nn.Linear(inputs, outputs, bias is not None, dtype=bias).requires_grad_(False)
    count = outputs if kind.is_by_output else 1
    stored = {
        "weight": torch.randint(-128, 128, (outputs, inputs), dtype=torch.int8, generator=random),
        "weight_scale": ((torch.rand(count, 1, generator=random) + 0.1) / 99).bfloat16(),
    }
    if kind.row_scale:
        stored["input_scale"] = torch.tensor([kind.row_scale])
    if kind.zero_point is not None:
        stored["input_zero_point"] = torch.tensor([kind.zero_point], dtype=torch.int8)
    rows = "static" if kind.row_scale else "dynamic"
    return GroupedLinear(like, Int8Layout(8, inputs, inputs, outputs, rows=rows), stored)
