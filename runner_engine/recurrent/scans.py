"""Linear recurrences of state space layers over the tokens of a forward pass, computed in torch.

Segments may have any lengths: nothing is padded to the longest. States are float32, and
slots without a segment do not change.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from runner_engine.recurrent.chunks import (
    gather_token_values_or_zeros,
    scatter_tokens,
    split_segments_into_chunks,
)
from runner_engine.recurrent.mixer import Segments


def scan_heads(
    inputs: Tensor,
    time_steps: Tensor,
    decay: Tensor,
    keys: Tensor,
    queries: Tensor,
    state: Tensor,
    segments: Segments,
) -> Tensor:
    """Compute a linear recurrence with one decay per head (SSD, Mamba-2).

    Returns the results of each head [tokens, H, P].

    inputs: [tokens, H, P]; time_steps: the lengths of time steps [tokens, H]; decay: negative [H];
    keys (B) and queries (C): [tokens, G, N], each for H / G heads. For each token, state
    [slots, H, N, P] becomes exp(step * decay) * state + step * key * input, and the result is
    query * state.
    """
    inputs, time_steps, keys, queries = (numbers.float() for numbers in (inputs, time_steps, keys, queries))
    if segments.max_count == 1:
        return _scan_heads_for_single_token(inputs, time_steps, decay, keys, queries, state, segments)
    places, chunks = split_segments_into_chunks(segments, inputs.device)
    per_group = inputs.shape[1] // keys.shape[1]
    # [chunks, H, Q, P]
    weighted = gather_token_values_or_zeros(inputs * time_steps[..., None], places).transpose(1, 2)
    # [chunks, G, Q, N]
    keys, queries = (
        gather_token_values_or_zeros(numbers, places).transpose(1, 2) for numbers in (keys, queries)
    )
    # [chunks, H, Q], in float64, since small differences of large sums are what counts
    sums = gather_token_values_or_zeros(time_steps * decay, places).double().cumsum(1).transpose(1, 2)
    apart = (sums[..., :, None] - sums[..., None, :]).tril().exp().tril().float()
    scores = (queries @ keys.transpose(2, 3)).repeat_interleave(per_group, dim=1)
    results = (scores * apart) @ weighted
    until_end = (sums[..., -1:] - sums).exp().float()
    keys, queries = (numbers.repeat_interleave(per_group, dim=1) for numbers in (keys, queries))
    added = (keys * until_end[..., None]).transpose(2, 3) @ weighted  # [chunks, H, N, P]
    since_start = sums.exp().float()
    current = segments.read_states(state).clone()
    for chunk in chunks:
        rows, before = chunk.rows, current[chunk.segments]
        results[rows] += since_start[rows][..., None] * (queries[rows] @ before)
        current[chunk.segments] = since_start[rows][..., -1, None, None] * before + added[rows]
    segments.write_states(state, current)
    return scatter_tokens(results.transpose(1, 2), places, len(inputs))


def _scan_heads_for_single_token(
    inputs: Tensor,
    time_steps: Tensor,
    decay: Tensor,
    keys: Tensor,
    queries: Tensor,
    state: Tensor,
    segments: Segments,
) -> Tensor:
    current = segments.read_states(state)
    per_group = inputs.shape[1] // keys.shape[1]
    keys, queries = (numbers.repeat_interleave(per_group, dim=1) for numbers in (keys, queries))
    current.mul_((time_steps * decay).exp()[:, :, None, None])
    current.add_((keys * time_steps[..., None])[..., None] * inputs[:, :, None, :])
    if not segments.is_step:
        segments.write_states(state, current)
    return (queries[:, :, None, :] @ current)[:, :, 0]


def scan_channels(
    inputs: Tensor,
    time_steps: Tensor,
    decay: Tensor,
    keys: Tensor,
    queries: Tensor,
    state: Tensor,
    segments: Segments,
) -> Tensor:
    """Compute a linear recurrence with one decay per state element (Mamba-1).

    Returns the results [tokens, C].

    inputs and time_steps: [tokens, C]; decay: negative [N, C]; keys (B) and queries (C): [tokens,
    G, N], each for C / G channels. For each token, state [slots, N, C] becomes exp(step *
    decay) * state + step * key * input, and the result is the sum of query * state over N.
    """
    inputs, time_steps, keys, queries = (numbers.float() for numbers in (inputs, time_steps, keys, queries))
    weighted, per_group = inputs * time_steps, inputs.shape[1] // keys.shape[1]
    keys, queries = (numbers.transpose(1, 2) for numbers in (keys, queries))  # [tokens, N, G]
    results = torch.empty_like(inputs)

    def update_state(step_states: Tensor, tokens: Tensor | slice) -> None:
        key, query = (numbers[tokens].repeat_interleave(per_group, dim=2) for numbers in (keys, queries))
        step_states.mul_((time_steps[tokens][:, None] * decay).exp_()).add_(key * weighted[tokens][:, None])
        results[tokens] = (step_states * query).sum(1)

    _scan_token_by_token(state, segments, update_state)
    return results


def scan_elementwise_recurrence(inputs: Tensor, decay: Tensor, state: Tensor, segments: Segments) -> Tensor:
    """Compute state = decay * state + input for each token.

    Returns results [tokens, C]. state: [slots, C].
    """
    inputs, decay = inputs.float(), decay.float()
    results = torch.empty_like(inputs)

    def update_state(step_states: Tensor, tokens: Tensor | slice) -> None:
        step_states.mul_(decay[tokens]).add_(inputs[tokens])
        results[tokens] = step_states

    _scan_token_by_token(state, segments, update_state)
    return results


def _scan_token_by_token(
    state: Tensor, segments: Segments, update_state: Callable[[Tensor, Tensor | slice], None]
) -> None:
    """Update the states of all segments one token at a time."""
    if segments.max_count == 1:
        current = segments.read_states(state)
        update_state(current, slice(None))
        if not segments.is_step:
            segments.write_states(state, current)
        return
    # those that go on are the first
    order = sorted(range(len(segments.counts)), key=lambda at: -segments.counts[at])
    counts = [segments.counts[at] for at in order]
    firsts = torch.tensor([segments.firsts[at] for at in order], device=state.device)
    by_length = torch.tensor(order, device=state.device)
    current, present = segments.read_states(state)[by_length], len(order)
    for step in range(segments.max_count):
        while counts[present - 1] <= step:
            present -= 1
        update_state(current[:present], firsts[:present] + step)
    ended = torch.empty_like(current)
    ended[by_length] = current
    segments.write_states(state, ended)
