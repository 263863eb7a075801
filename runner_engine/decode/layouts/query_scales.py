"""Detects attention layers that scale queries by token position."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch

from runner_engine.decode.layouts.attention_capture import POSITIONS
from runner_engine.decode.layouts.parts import NotFusable

# rotations whose angles depend on the longest position seen
LENGTHS_CHANGE = ("dynamic", "longrope")


@dataclass(frozen=True)
class QueryScale:
    """Llama 4's query scale, which grows logarithmically with the token position."""

    beta: float
    trained: int
    first: int = 0  # the number of position 0
    is_rounded: bool = True  # to the model's dtype
    # the module counts the tokens in its cache, and is given no positions
    counts_tokens: bool = False

    def compute_scales(self, positions: torch.Tensor) -> torch.Tensor:
        return 1 + self.beta * torch.log1p(torch.floor((positions + self.first) / self.trained))

    @property
    def trial_positions(self) -> tuple[int, ...]:
        if self.counts_tokens:
            return tuple(self.trained - 2 + number for number in range(len(POSITIONS)))
        return tuple(at + number * self.trained for number, at in enumerate(POSITIONS))

    @property
    def trial_arguments(self) -> dict[str, Any]:
        """Arguments of the attention module that give its tokens the trial's positions."""
        if self.counts_tokens:
            return {"past_key_values": _SeenTokens(self.trial_positions[0])}
        return {"position_ids": torch.tensor([self.trial_positions])}


class _SeenTokens:
    """Stands for a KV cache that has so many tokens, in a trial that only needs their number."""

    def __init__(self, num_tokens: int) -> None:
        self.num_tokens = num_tokens

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.num_tokens

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return keys, values


def find_query_scale(attention: Any) -> QueryScale | None:
    """Return the query scale of an attention module, or None if the module has none.

    Raises NotFusable if the module uses positions in other ways.
    """
    if getattr(attention, "attn_temperature_tuning", False):
        if getattr(attention, "use_rope", True):
            return None
        return QueryScale(
            float(attention.attn_scale), int(attention.floor_scale), 1, is_rounded=False, counts_tokens=True
        )
    parameter = inspect.signature(type(attention).forward).parameters.get("position_ids")
    if parameter is None or parameter.default is not inspect.Parameter.empty:
        return None
    rope = getattr(attention.config, "rope_parameters", None) or {}
    beta, trained = rope.get("llama_4_scaling_beta"), rope.get("original_max_position_embeddings")
    if beta is None or not trained or rope.get("rope_type") in LENGTHS_CHANGE:
        raise NotFusable("attention depends on token positions in an unsupported way")
    return QueryScale(float(beta), int(trained))
