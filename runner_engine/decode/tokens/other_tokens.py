"""Tokens that are drawn from all but the most probable ones: they stand for these where not all can
be kept.

What is drawn depends on the request and the position alone, so that an interrupted job draws the
same again.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from runner_engine.sessions import Request

BLOCK = 256  # tokens
BELOW_1 = 1 - 1e-12  # so that a product with a sum stays below the sum


def numbers(request: Request, first: int, count: int) -> torch.Tensor:
    """Return random numbers from 0 to 1 for `count` positions from `first` on: [count,
    drawn_tokens]."""
    key = int.from_bytes(hashlib.sha256(f"{request.id}".encode()).digest()[:16])
    generator = np.random.Generator(np.random.Philox(key=key))
    return torch.from_numpy(generator.random((first + count, request.drawn_tokens))[first:])


def draw_others(scores: torch.Tensor, left_out: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Draw from each row of log-probabilities [n, V], by probability, some of the tokens that are
    not left out.

    First a block of tokens is drawn and then one of its tokens, since sums over blocks are fast.
    """
    count, vocabulary = scores.shape
    chances = torch.nn.functional.pad(scores.exp().scatter_(1, left_out, 0.0), (0, -vocabulary % BLOCK))
    blocks = chances.view(count, -1, BLOCK)
    edges = torch.nn.functional.pad(blocks.sum(dim=-1).double().cumsum(dim=-1), (1, 0))
    wanted = uniform.clamp(max=BELOW_1) * edges[:, -1:]
    block = torch.searchsorted(edges[:, 1:].contiguous(), wanted, right=True).clamp(max=blocks.shape[1] - 1)
    begin, end = edges.gather(1, block), edges.gather(1, block + 1)
    within = ((wanted - begin) / (end - begin)).nan_to_num(0.0).clamp(0.0, BELOW_1)
    inside = blocks[torch.arange(count, device=scores.device)[:, None], block].double().cumsum(dim=-1)
    token = torch.searchsorted(inside, within[..., None] * inside[..., -1:], right=True).squeeze(-1)
    return (block * BLOCK + token).clamp(max=vocabulary - 1)
