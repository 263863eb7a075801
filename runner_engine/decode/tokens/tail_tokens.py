"""Draws random tokens outside the top-k.

They represent the rest of a distribution that is too large to store.

The draw depends only on the request and the position, so an interrupted job draws the
same tokens again.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from runner_engine.sessions import Request

BLOCK = 256  # tokens
BELOW_1 = 1 - 1e-12  # so that a product with a sum stays below the sum


def draw_reproducible_random_numbers(
    request: Request, first_position: int, num_positions: int
) -> torch.Tensor:
    """Return reproducible random numbers in [0, 1) for sampling tokens: [positions, drawn_tokens].

    Entry i belongs to position first_position + i.
    """
    key = int.from_bytes(hashlib.sha256(f"{request.id}".encode()).digest()[:16])
    generator = np.random.Generator(np.random.Philox(key=key))
    return torch.from_numpy(
        generator.random((first_position + num_positions, request.drawn_tokens))[first_position:]
    )


def draw_tokens_with_exclusions(
    logprobs: torch.Tensor, excluded_tokens: torch.Tensor, uniform_numbers: torch.Tensor
) -> torch.Tensor:
    """Sample random tokens according to log-probabilities [n, V], without the excluded tokens.

    A block of tokens is drawn first and then a token inside it, because sums over blocks are
    fast.
    """
    count, vocabulary = logprobs.shape
    chances = torch.nn.functional.pad(
        logprobs.exp().scatter_(1, excluded_tokens, 0.0), (0, -vocabulary % BLOCK)
    )
    blocks = chances.view(count, -1, BLOCK)
    edges = torch.nn.functional.pad(blocks.sum(dim=-1).double().cumsum(dim=-1), (1, 0))
    wanted = uniform_numbers.clamp(max=BELOW_1) * edges[:, -1:]
    block = torch.searchsorted(edges[:, 1:].contiguous(), wanted, right=True).clamp(max=blocks.shape[1] - 1)
    begin, end = edges.gather(1, block), edges.gather(1, block + 1)
    within = ((wanted - begin) / (end - begin)).nan_to_num(0.0).clamp(0.0, BELOW_1)
    inside = blocks[torch.arange(count, device=logprobs.device)[:, None], block].double().cumsum(dim=-1)
    token = torch.searchsorted(inside, within[..., None] * inside[..., -1:], right=True).squeeze(-1)
    return (block * BLOCK + token).clamp(max=vocabulary - 1)
