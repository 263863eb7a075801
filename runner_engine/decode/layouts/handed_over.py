"""What a layer's attention does to queries, keys and values before they are compared: a trial of
its module alone."""

from __future__ import annotations

from typing import Any

import torch

from runner_engine.attention import PLAIN, Softmax, running
from runner_engine.decode.layouts.parts import NotFusable
from runner_engine.decode.layouts.rotations import Angles

POSITIONS = (1, 2, 5)  # of the rows


class HandedOver(Exception):
    """What a module hands to its attention; ends its forward pass."""

    def __init__(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, softmax: Softmax
    ):
        super().__init__()
        self.query, self.key, self.value = (heads.transpose(0, 1).float() for heads in (query, key, value))
        self.scale, self.softmax = scale, softmax


def handed_over(
    model: Any, attention: Any, rows: torch.Tensor, angles: Angles | None, **others: Any
) -> HandedOver:
    """Return what the module of a layer's attention makes of rows [1, T, hidden]: heads [T, H,
    D]."""

    def record(
        _: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        softmax: Softmax = PLAIN,
    ) -> torch.Tensor:
        raise HandedOver(query, key, value, scale, softmax)

    given = None if angles is None else angles.given
    try:
        with running(model, record):
            attention(hidden_states=rows, position_embeddings=given, attention_mask=None, **others)
    except HandedOver as handed:
        return handed
    raise NotFusable("its attention does not go through transformers' interface")
