"""The gated delta rule: a state [K, V] for each head that decays, forgets what a key stood for, and
learns its value.

For each token: S ← exp(decay) S; S ← S + k (beta (v - kᵀS))ᵀ; result = Sᵀq. A chunk of tokens is a
few products of matrices: within it, the corrections solve a triangular system, since each depends
on those before it. The decay is a number for each head, or one for each key's dimension. All is in
float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from runner_engine.recurrent.chunks import CHUNK, chunks_of, put_back, taken
from runner_engine.recurrent.contract import Segments

SMALL_CHUNK = 16  # where the decay is by dimension, whose products of pairs are [chunk, chunk, K]


@dataclass(frozen=True)
class Inputs:
    """What the rule reads of each token: keys of length 1, and queries scaled as their products
    need."""

    query: Tensor  # [tokens, heads, K]
    key: Tensor  # the same
    value: Tensor  # [tokens, heads, V]
    decay: Tensor  # [tokens, heads] or [tokens, heads, K]: logs, at most 0
    beta: Tensor  # [tokens, heads]

    def each(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        """Return the same with every tensor changed."""
        return Inputs(*(change(getattr(self, one.name)) for one in fields(self)))


def apply(inputs: Inputs, state: Tensor, segments: Segments) -> Tensor:
    """Return the rule's results [tokens, heads, V], and change the states [slots, heads, K, V]."""
    before = segments.read(state)
    if segments.longest == 1:
        result, after = step(inputs, before)
    else:
        result, after = chunks(inputs, before, segments)
    segments.write(state, after)
    return result


def step(inputs: Inputs, state: Tensor) -> tuple[Tensor, Tensor]:
    """Read one token of each row: return [rows, heads, V], and the states [rows, heads, K, V] after
    it."""
    decay = inputs.decay[..., None, None] if inputs.decay.dim() == 2 else inputs.decay[..., None]
    state = state * decay.exp()
    known = torch.einsum("rhkv,rhk->rhv", state, inputs.key)
    correction = (inputs.value - known) * inputs.beta[..., None]
    state = state + inputs.key[..., None] * correction[..., None, :]
    return torch.einsum("rhkv,rhk->rhv", state, inputs.query), state


def chunks(inputs: Inputs, state: Tensor, segments: Segments) -> tuple[Tensor, Tensor]:
    """Read the tokens of each segment in chunks: return [tokens, heads, V], and the states after
    them.

    Tokens without a key, decay and beta, which fill the last chunk of a segment, change nothing.
    """
    size = CHUNK if inputs.decay.dim() == 2 else SMALL_CHUNK
    places, parts = chunks_of(segments, state.device, size)
    cut = inputs.each(lambda numbers: taken(numbers, places).transpose(1, 2))
    known, attended = _pairs(cut)
    # of the tokens from the chunk's start up to each, [chunks, heads, tokens(, K)]
    total = cut.decay.cumsum(2)
    since = total[..., None] if total.dim() == 3 else total  # broadcasts over K
    grown, left = since.exp(), (since[:, :, -1:] - since).exp()
    weighted = cut.key * cut.beta[..., None]
    both = torch.cat((cut.value * cut.beta[..., None], weighted * grown), dim=3)
    new, of_state = torch.linalg.solve_triangular(
        known, both, upper=False, unitriangular=True
    ).split_with_sizes([cut.value.shape[3], cut.key.shape[3]], dim=3)
    query, key, results = (cut.query * grown, (cut.key * left).transpose(2, 3), torch.empty_like(cut.value))
    state = state.clone()
    for part in parts:
        rows, before = part.rows, state[part.segments]
        learned = new[rows] - of_state[rows] @ before
        results[rows] = query[rows] @ before + attended[rows] @ learned
        state[part.segments] = before * grown[rows][:, :, -1, :, None] + key[rows] @ learned
    return put_back(results.transpose(1, 2), places, len(inputs.query)), state


def _pairs(cut: Inputs) -> tuple[Tensor, Tensor]:
    """Return what each token of a chunk knows of the earlier keys, and what its query has of them:
    [..., i, j]."""
    total = cut.decay.cumsum(2)
    later = torch.ones(cut.key.shape[2], cut.key.shape[2], dtype=torch.bool, device=cut.key.device).triu(1)
    weighted = cut.key * cut.beta[..., None]
    if total.dim() == 3:
        between = (total[..., :, None] - total[..., None, :]).masked_fill(later, -torch.inf).exp()
        keys = cut.key.transpose(2, 3)
        return (weighted @ keys) * between, (cut.query @ keys) * between
    between = (
        (total[..., :, None, :] - total[..., None, :, :]).masked_fill(later[..., None], -torch.inf).exp()
    )
    decayed = between * cut.key[..., None, :, :]
    known, attended = (torch.einsum("chik,chijk->chij", one, decayed) for one in (weighted, cut.query))
    return known, attended
