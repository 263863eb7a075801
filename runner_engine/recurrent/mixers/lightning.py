"""MiniMax's lightning attention: a recurrence with a fixed decay per head."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from runner_engine.recurrent.mixer import Mixer, Segments, StateShape
from runner_engine.recurrent.scans import scan_heads


class LightningAttention(Mixer):
    """Recurrent layer whose state is a decaying sum of outer products of keys and values: [H, D, D]."""

    in_pair = True

    def __init__(self, module: Any) -> None:
        self.module = module
        self.heads, self.width = module.num_attention_heads, module.head_dim
        self.states = (StateShape((self.heads, self.width, self.width), torch.float32),)

    @cached_property
    def decay(self) -> Tensor:
        """Natural logarithm of each head's decay per token: [H]. All values are negative."""
        decay: Tensor = -self.module.slope_rate.detach().float().flatten()
        return decay

    def forward(self, hidden_states: Tensor, states: Sequence[Tensor], segments: Segments) -> Tensor:
        module = self.module
        parts = module.act_fn(module.qkv_proj(hidden_states)).unflatten(1, (self.heads, 3 * self.width))
        queries, keys, values = parts.chunk(3, dim=2)
        steps = torch.ones((len(hidden_states), self.heads), device=hidden_states.device, dtype=torch.float32)
        scanned = scan_heads(values, steps, self.decay, keys, queries, states[0], segments).to(
            hidden_states.dtype
        )
        result: Tensor = module.out_proj(
            module.output_gate(hidden_states).sigmoid() * module.norm(scanned.flatten(1))
        )
        return result


def create_mixer(module: Any) -> Mixer:
    return LightningAttention(module)
