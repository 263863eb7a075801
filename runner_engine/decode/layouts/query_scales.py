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

    def compute_scales(self, positions: torch.Tensor) -> torch.Tensor:
        return 1 + self.beta * torch.log(1 + torch.floor(positions / self.trained))

    @property
    def trial_positions(self) -> tuple[int, ...]:
        return tuple(at + number * self.trained for number, at in enumerate(POSITIONS))


def find_query_scale(attention: Any) -> QueryScale | None:
    """Return the query scale of an attention module, or None if the module has none.

    Raises NotFusable if the module uses positions in other ways.
    """
    parameter = inspect.signature(type(attention).forward).parameters.get("position_ids")
    if parameter is None or parameter.default is not inspect.Parameter.empty:
        return None
    rope = getattr(attention.config, "rope_parameters", None) or {}
    beta, trained = rope.get("llama_4_scaling_beta"), rope.get("original_max_position_embeddings")
    if beta is None or not trained or rope.get("rope_type") in LENGTHS_CHANGE:
        raise NotFusable("attention depends on token positions in an unsupported way")
    return QueryScale(float(beta), int(trained))
