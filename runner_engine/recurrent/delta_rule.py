"""The gated delta rule: a state [K, V] for each head that decays, forgets what a key stood for, and learns its value.

For each token: S ← exp(decay) S; S ← S + k (beta (v - kᵀS))ᵀ; result = Sᵀq. A chunk of tokens is a few products of
matrices: within it, the corrections solve a triangular system, since each depends on those before it.
The decay is a number for each head, or one for each key's dimension. All is in float32.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

CHUNK = 64  # tokens
SMALL_CHUNK = 16  # the same where the decay is by dimension, whose products of pairs are [chunk, chunk, K]


@dataclass(frozen=True)
class Inputs:
    """What the rule reads of each token, in float32: keys of length 1, and queries scaled as their products need."""

    query: Tensor  # [rows, tokens, heads, K]
    key: Tensor  # the same
    value: Tensor  # [rows, tokens, heads, V]
    decay: Tensor  # [rows, tokens, heads] or [rows, tokens, heads, K]: logs, at most 0
    beta: Tensor  # [rows, tokens, heads]

    def part(self, first: int, last: int) -> Inputs:
        """Return some of the tokens."""
        return Inputs(*(getattr(self, one.name)[:, first:last] for one in fields(self)))


def step(inputs: Inputs, state: Tensor) -> tuple[Tensor, Tensor]:
    """Read one token of each row: return [rows, heads, V], and the states [rows, heads, K, V] after it."""
    query, key, value, decay, beta = (getattr(inputs, one.name)[:, 0] for one in fields(inputs))
    decay = decay[..., None, None] if decay.dim() == 2 else decay[..., None]
    state = state * decay.exp()
    known = torch.einsum("rhkv,rhk->rhv", state, key)
    state = state + key[..., None] * ((value - known) * beta[..., None])[..., None, :]
    return torch.einsum("rhkv,rhk->rhv", state, query), state


def chunks(inputs: Inputs, state: Tensor) -> tuple[Tensor, Tensor]:
    """Read the tokens of each row in chunks: return [rows, tokens, heads, V], and the states after them.

    Tokens without a key, decay and beta (padding) change nothing.
    """
    size = CHUNK if inputs.decay.dim() == 3 else SMALL_CHUNK
    results = []
    for first in range(0, inputs.query.shape[1], size):
        result, state = _chunk(inputs.part(first, first + size), state)
        results.append(result)
    return torch.cat(results, dim=1), state


def _chunk(inputs: Inputs, state: Tensor) -> tuple[Tensor, Tensor]:
    """Read one chunk: as `chunks`."""
    query, key, value, decay, beta = (getattr(inputs, one.name).transpose(1, 2) for one in fields(inputs))
    total = decay.cumsum(2)  # of the tokens from the chunk's start up to each, [rows, heads, tokens(, K)]
    by_head = total.dim() == 3
    since = total[..., None] if by_head else total  # broadcasts over K
    earlier = torch.ones(key.shape[2], key.shape[2], dtype=torch.bool, device=key.device).tril()
    weighted = key * beta[..., None]
    if by_head:
        between = (total[..., :, None] - total[..., None, :]).masked_fill(~earlier, -torch.inf).exp()
        known = (weighted @ key.transpose(2, 3)) * between
        attended = (query @ key.transpose(2, 3)) * between
    else:
        pairs = (total[..., :, None, :] - total[..., None, :, :]).masked_fill(~earlier[..., None], -torch.inf).exp()
        pairs = pairs * key[..., None, :, :]
        known = torch.einsum("rhik,rhijk->rhij", weighted, pairs)
        attended = torch.einsum("rhik,rhijk->rhij", query, pairs)
    grown = since.exp()
    told = value * beta[..., None] - (weighted * grown) @ state
    new = torch.linalg.solve_triangular(known, told, upper=False, unitriangular=True)
    result = (query * grown) @ state + attended @ new
    left = (since[:, :, -1:] - since).exp()  # of what each token has told, at the end
    state = state * since[:, :, -1, :, None].exp() + (key * left).transpose(2, 3) @ new
    return result.transpose(1, 2), state
