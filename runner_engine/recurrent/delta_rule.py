"""Gated delta rule: each head has a state [K, V] that maps keys to values.

Per token, the state decays, and the new value replaces the old value of its key.

For each token: S ← exp(decay) S; S ← S + k (beta (v - kᵀS))ᵀ; result = Sᵀq. A chunk of
tokens needs a few matmuls: inside it, the corrections solve a triangular system, because
each depends on those before it. The decay is one number per head, or one per key
dimension. All is in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from runner_engine.recurrent.chunks import (
    CHUNK,
    gather_token_values_or_zeros,
    scatter_tokens,
    split_segments_into_chunks,
)
from runner_engine.recurrent.mixer import Segments

SMALL_CHUNK = 16  # where the decay is by dimension, whose products of pairs are [chunk, chunk, K]


@dataclass(frozen=True)
class DeltaRuleInputs:
    """Inputs of the gated delta rule for each token. Keys are normalized, and queries are scaled."""

    query: Tensor  # [tokens, heads, K]
    key: Tensor  # the same
    value: Tensor  # [tokens, heads, V]
    decay: Tensor  # [tokens, heads] or [tokens, heads, K]: logs, at most 0
    beta: Tensor  # [tokens, heads]

    def map_tensors(self, transform: Callable[[Tensor], Tensor]) -> DeltaRuleInputs:
        """Return a copy of the inputs with `transform` applied to every tensor."""
        return DeltaRuleInputs(*(transform(getattr(self, one.name)) for one in fields(self)))


def apply_delta_rule(inputs: DeltaRuleInputs, state: Tensor, segments: Segments) -> Tensor:
    """Compute the gated delta rule. Returns results [tokens, heads, V].

    Updates the states [slots, heads, K, V].
    """
    before = segments.read_states(state)
    if segments.max_count == 1:
        result, after = compute_delta_rule_step(inputs, before)
    else:
        result, after = compute_chunked_delta_rule(inputs, before, segments)
    segments.write_states(state, after)
    return result


def compute_delta_rule_step(inputs: DeltaRuleInputs, state: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the delta rule for one token per sequence.

    Returns results [sequences, heads, V] and new states [sequences, heads, K, V].
    """
    decay = inputs.decay[..., None, None] if inputs.decay.dim() == 2 else inputs.decay[..., None]
    state = state * decay.exp()
    known = torch.einsum("rhkv,rhk->rhv", state, inputs.key)
    correction = (inputs.value - known) * inputs.beta[..., None]
    state = state + inputs.key[..., None] * correction[..., None, :]
    return torch.einsum("rhkv,rhk->rhv", state, inputs.query), state


def compute_chunked_delta_rule(
    inputs: DeltaRuleInputs, state: Tensor, segments: Segments
) -> tuple[Tensor, Tensor]:
    """Compute the delta rule for the tokens of each segment, in chunks.

    Returns results [tokens, heads, V] and new states.

    The last chunk of a segment is padded with tokens without key, decay and beta, which
    change nothing.
    """
    size = CHUNK if inputs.decay.dim() == 2 else SMALL_CHUNK
    places, parts = split_segments_into_chunks(segments, state.device, size)
    cut = inputs.map_tensors(lambda numbers: gather_token_values_or_zeros(numbers, places).transpose(1, 2))
    known, attended = _compute_token_pair_weights(cut)
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
    return scatter_tokens(results.transpose(1, 2), places, len(inputs.query)), state


def _compute_token_pair_weights(chunk_inputs: DeltaRuleInputs) -> tuple[Tensor, Tensor]:
    """Compute the weight between each token i and each earlier token j of a chunk: [..., i, j].

    The first matrix is for keys, the second for queries.
    """
    total = chunk_inputs.decay.cumsum(2)
    later = torch.ones(
        chunk_inputs.key.shape[2], chunk_inputs.key.shape[2], dtype=torch.bool, device=chunk_inputs.key.device
    ).triu(1)
    weighted = chunk_inputs.key * chunk_inputs.beta[..., None]
    if total.dim() == 3:
        between = (total[..., :, None] - total[..., None, :]).masked_fill(later, -torch.inf).exp()
        keys = chunk_inputs.key.transpose(2, 3)
        return (weighted @ keys) * between, (chunk_inputs.query @ keys) * between
    between = (
        (total[..., :, None, :] - total[..., None, :, :]).masked_fill(later[..., None], -torch.inf).exp()
    )
    decayed = between * chunk_inputs.key[..., None, :, :]
    known, attended = (
        torch.einsum("chik,chijk->chij", one, decayed) for one in (weighted, chunk_inputs.query)
    )
    return known, attended
