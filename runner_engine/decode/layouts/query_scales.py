"""Queries that are scaled by their position, which only an attention that takes positions can
do."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch

from runner_engine.decode.layouts.handed_over import POSITIONS
from runner_engine.decode.layouts.parts import NotFusable

# rotations whose angles depend on the longest position seen
LENGTHS_CHANGE = ("dynamic", "longrope")


@dataclass(frozen=True)
class QueryScale:
    """Llama 4's: queries grow with the logarithm of how often the trained length fits before
    them."""

    beta: float
    trained: int

    def at(self, positions: torch.Tensor) -> torch.Tensor:
        """Return what queries at these positions are multiplied by."""
        return 1 + self.beta * torch.log(1 + torch.floor(positions / self.trained))

    @property
    def positions(self) -> tuple[int, ...]:
        """Positions at which it shows, one for each row of a trial."""
        return tuple(at + number * self.trained for number, at in enumerate(POSITIONS))


def query_scale_of(attention: Any) -> QueryScale | None:
    """Return how a module scales queries by their positions; NotFusable where it takes these for
    something else."""
    parameter = inspect.signature(type(attention).forward).parameters.get("position_ids")
    if parameter is None or parameter.default is not inspect.Parameter.empty:
        return None
    rope = getattr(attention.config, "rope_parameters", None) or {}
    beta, trained = rope.get("llama_4_scaling_beta"), rope.get("original_max_position_embeddings")
    if beta is None or not trained or rope.get("rope_type") in LENGTHS_CHANGE:
        raise NotFusable("its attention takes the positions of tokens")
    return QueryScale(float(beta), int(trained))
