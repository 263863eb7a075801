"""Tokens that are drawn from all but the most probable ones: they stand for these where not all can be kept.

What is drawn depends on the request and the position alone, so that an interrupted job draws the same again.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from runner.engines.base import Request


def numbers(request: Request, first: int, count: int) -> torch.Tensor:
    """Return random numbers from 0 to 1 for `count` positions from `first` on: [count, drawn_tokens]."""
    key = int.from_bytes(hashlib.sha256(f"{request.id}".encode()).digest()[:16])
    generator = np.random.Generator(np.random.Philox(key=key))
    return torch.from_numpy(generator.random((first + count, request.drawn_tokens))[first:])


def draw_others(scores: torch.Tensor, left_out: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Draw from each row of log-probabilities [n, V], by probability, some of the tokens that are not left out."""
    edges = scores.exp().scatter(1, left_out, 0.0).cumsum(dim=-1, dtype=torch.float64)
    return torch.searchsorted(edges, uniform * edges[:, -1:], right=True).clamp(max=scores.shape[-1] - 1)
