"""Captures the queries, keys and values that a model's attention module passes to the attention
function.
"""

from __future__ import annotations

from typing import Any

import torch

from runner_engine.attention import PLAIN, Softmax, use_attention_function
from runner_engine.decode.layouts.parts import NotFusable
from runner_engine.decode.layouts.rotations import Angles

POSITIONS = (1, 2, 5)  # of the rows


class CapturedAttentionInputs(Exception):
    """Queries, keys and values that a module passes to the attention function.

    Raised as an exception to stop the forward pass.
    """

    def __init__(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, softmax: Softmax
    ):
        super().__init__()
        self.query, self.key, self.value = (heads.transpose(0, 1).float() for heads in (query, key, value))
        self.scale, self.softmax = scale, softmax


def capture_attention_inputs(
    model: Any, attention: Any, rows: torch.Tensor, angles: Angles | None, **others: Any
) -> CapturedAttentionInputs:
    """Run an attention module on hidden states [1, T, hidden] and capture its heads [T, H, D]."""

    def raise_inputs(
        _: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        softmax: Softmax = PLAIN,
    ) -> torch.Tensor:
        raise CapturedAttentionInputs(query, key, value, scale, softmax)

    given = None if angles is None else angles.given
    try:
        with use_attention_function(model, raise_inputs):
            attention(hidden_states=rows, position_embeddings=given, attention_mask=None, **others)
    except CapturedAttentionInputs as handed:
        return handed
    raise NotFusable("the attention module does not use transformers' attention interface")
