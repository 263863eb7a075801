"""Describes multi-head latent attention (MLA), using module names and a test run."""

from __future__ import annotations

from typing import Any

import torch

from runner_engine.decode.layouts.attention import IGNORED
from runner_engine.decode.layouts.attention_capture import POSITIONS, capture_attention_inputs
from runner_engine.decode.layouts.attention_layout import AttentionLayout, LatentLayout
from runner_engine.decode.layouts.norms import infer_norm_layout
from runner_engine.decode.layouts.parts import LATENTS, LatentNames, NotFusable, computing_child_names
from runner_engine.decode.layouts.query_scales import find_query_scale
from runner_engine.decode.layouts.rotations import (
    NEAR,
    RopeTable,
    check_rotation_error,
    find_rope_rotation,
    max_relative_error,
)
from runner_engine.kv_cache import KvCacheSpec


def match_latent_attention_names(attention: Any) -> LatentNames | None:
    parts = computing_child_names(attention) - IGNORED
    return next((names for names in LATENTS if names.all_names == parts), None)


def infer_latent_attention_layout(
    model: Any,
    attention: Any,
    kv_spec: KvCacheSpec,
    hidden_states: torch.Tensor,
    rope_table: RopeTable | None,
) -> AttentionLayout:
    """Run a latent attention layer on test inputs, and describe its computation for the C kernels.

    hidden_states: [1, T, hidden] inputs of the test run.
    """
    names = match_latent_attention_names(attention)
    assert names is not None
    if find_query_scale(attention) is not None:
        raise NotFusable("latent attention scales queries by token position")
    angles = None if rope_table is None else rope_table.compute_rope_angles(hidden_states, POSITIONS)
    handed = capture_attention_inputs(model, attention, hidden_states, angles)
    into = tuple(getattr(attention, name) for name in names.into)
    out, to_pairs, norm = (getattr(attention, name) for name in (names.out, names.to_pairs, names.pair_norm))
    latent = norm.weight.numel()
    first, second = (layer(hidden_states)[0] for layer in into)
    count, value = handed.value.shape[1:]
    rotated = second.shape[-1] - latent
    unrotated = handed.query.shape[-1] - rotated
    shapes = {tuple(handed.query.shape[1:]), tuple(handed.key.shape[1:])}
    is_as_wide = shapes == {(count, unrotated + rotated)} and max(unrotated + rotated, value) <= kv_spec.dim
    if count != kv_spec.kv_heads or kv_spec.group != 1 or not is_as_wide or unrotated < 0:
        raise NotFusable("the latent attention heads have an unsupported shape")
    like, of_queries, to_queries = hidden_states[0, :1], None, None
    if names.to_queries:
        query_norm, to_queries = (getattr(attention, names.query_norm), getattr(attention, names.to_queries))
        of_queries = infer_norm_layout(query_norm, first.shape[-1], like)
        first = to_queries(query_norm(first))
    pairs = to_pairs(norm(second[:, :latent])).view(len(second), count, -1)
    if pairs.shape[-1] != unrotated + value or first.shape[-1] != count * (unrotated + rotated):
        raise NotFusable("the latent projections have unsupported sizes")
    queries = first.view(len(first), count, -1)
    keys = torch.cat((pairs[..., :unrotated], second[:, None, latent:].expand(-1, count, -1)), -1)
    for made, given in ((queries, handed.query), (keys, handed.key)):
        if unrotated and max_relative_error(made[..., :unrotated].float(), given[..., :unrotated]) > NEAR:
            raise NotFusable("the layer computes queries and keys with an unsupported formula")
    if max_relative_error(pairs[..., unrotated:].float(), handed.value) > NEAR:
        raise NotFusable("values use an unsupported formula")
    rotation, least = None, 0.0
    if rotated:
        made = queries[..., unrotated:].float(), keys[..., unrotated:].float()
        rotation, least = find_rope_rotation(
            made, (handed.query[..., unrotated:], handed.key[..., unrotated:]), angles
        )
    check_rotation_error(least, angles)
    if rotation is not None and rotation.rotated != rotated:
        raise NotFusable("RoPE does not rotate all shared dimensions of the keys")
    latents = LatentLayout(
        of_queries, to_queries, infer_norm_layout(norm, latent, like), to_pairs, unrotated, rotated, value
    )
    return AttentionLayout(
        into, out, handed.scale, handed.softmax.cap, handed.softmax.sinks, rotation, latent=latents
    )
