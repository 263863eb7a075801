"""Blocks of a .gguf file with random bits and small scales, and layers of them."""

from __future__ import annotations

import torch
from torch import nn

from runner_engine.models.gguf_blocks import GgufLinear
from runner_engine.models.gguf_types import TYPES


def random_blocks(name: str, outputs: int, inputs: int, seed: int = 0) -> torch.Tensor:
    """Return uint8 [outputs, bytes] of a type."""
    random, kind = torch.Generator().manual_seed(seed), TYPES[name]
    blocks = torch.randint(256, (outputs, inputs // kind.inputs, kind.stored_bytes), generator=random).to(
        torch.uint8
    )
    if name == "MXFP4":
        blocks[..., 0] = torch.randint(112, 126, blocks.shape[:2], generator=random).to(torch.uint8)
        return blocks.flatten(1)
    scales = torch.randn(outputs, inputs // kind.inputs, kind.scales, generator=random) * 0.02
    blocks[..., kind.scales_at : kind.scales_at + 2 * kind.scales] = scales.half().view(torch.uint8)
    return blocks.flatten(1)


def block_layer(
    name: str,
    outputs: int,
    inputs: int,
    bias: torch.Tensor | None = None,
    ordered: bool = True,
    has_byte_rows: bool = False,
) -> GgufLinear:
    """Return a layer of random blocks."""
    like = nn.Linear(inputs, outputs, bias=False)
    if bias is not None:
        like.bias = nn.Parameter(bias)
    order = None if ordered else torch.randperm(outputs, generator=torch.Generator().manual_seed(1))
    return GgufLinear(like, random_blocks(name, outputs, inputs), name, order, has_byte_rows)
