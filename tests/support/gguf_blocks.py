"""Blocks of a .gguf file with random bits and small scales."""

from __future__ import annotations

import torch

from runner.models.gguf_types import TYPES


def random_blocks(name: str, outputs: int, inputs: int, seed: int = 0) -> torch.Tensor:
    """Return uint8 [outputs, bytes] of a type."""
    random, kind = torch.Generator().manual_seed(seed), TYPES[name]
    blocks = torch.randint(256, (outputs, inputs // kind.inputs, kind.stored_bytes), generator=random).to(torch.uint8)
    scales = torch.randn(outputs, inputs // kind.inputs, kind.scales, generator=random) * 0.02
    blocks[..., kind.scales_at : kind.scales_at + 2 * kind.scales] = scales.half().view(torch.uint8)
    return blocks.flatten(1)
