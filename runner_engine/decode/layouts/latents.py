"""Attention whose queries, keys and values come out of latents (MLA), by the names of its parts and
a trial of it."""

from __future__ import annotations

from typing import Any

import torch

from runner_engine.decode.layouts.attention import IGNORED
from runner_engine.decode.layouts.attention_layout import AttentionLayout, LatentLayout
from runner_engine.decode.layouts.handed_over import POSITIONS, handed_over
from runner_engine.decode.layouts.norms import norm_of
from runner_engine.decode.layouts.parts import LATENTS, LatentNames, NotFusable, names_of_parts
from runner_engine.decode.layouts.query_scales import query_scale_of
from runner_engine.decode.layouts.rotations import NEAR, RopeTable, check_near, off_by, rotation_of
from runner_engine.kv_cache import Heads


def latent_names_of(attention: Any) -> LatentNames | None:
    """Return the names of a module's parts if it has latents."""
    parts = names_of_parts(attention) - IGNORED
    return next((names for names in LATENTS if names.all == parts), None)


def latent_attention_of(
    model: Any, attention: Any, heads: Heads, rows: torch.Tensor, table: RopeTable | None
) -> AttentionLayout:
    """Return the layout of a layer's attention with latents; rows [1, T, hidden], table: what
    rotates, or nothing."""
    names = latent_names_of(attention)
    assert names is not None
    if query_scale_of(attention) is not None:
        raise NotFusable("its latents' queries are scaled by their positions")
    angles = None if table is None else table.angles(rows, POSITIONS)
    handed = handed_over(model, attention, rows, angles)
    into = tuple(getattr(attention, name) for name in names.into)
    out, to_pairs, norm = (getattr(attention, name) for name in (names.out, names.to_pairs, names.pair_norm))
    latent = norm.weight.numel()
    first, second = (layer(rows)[0] for layer in into)
    count, value = handed.value.shape[1:]
    rotated = second.shape[-1] - latent
    unrotated = handed.query.shape[-1] - rotated
    shapes = {tuple(handed.query.shape[1:]), tuple(handed.key.shape[1:])}
    is_as_wide = shapes == {(count, unrotated + rotated)} and max(unrotated + rotated, value) <= heads.dim
    if count != heads.kv_heads or heads.group != 1 or not is_as_wide or unrotated < 0:
        raise NotFusable("its layers have heads of other shapes")
    like, of_queries, to_queries = rows[0, :1], None, None
    if names.to_queries:
        query_norm, to_queries = (getattr(attention, names.query_norm), getattr(attention, names.to_queries))
        of_queries = norm_of(query_norm, first.shape[-1], like)
        first = to_queries(query_norm(first))
    pairs = to_pairs(norm(second[:, :latent])).view(len(second), count, -1)
    if pairs.shape[-1] != unrotated + value or first.shape[-1] != count * (unrotated + rotated):
        raise NotFusable("its queries, keys and values have other sizes")
    queries = first.view(len(first), count, -1)
    keys = torch.cat((pairs[..., :unrotated], second[:, None, latent:].expand(-1, count, -1)), -1)
    for made, given in ((queries, handed.query), (keys, handed.key)):
        if unrotated and off_by(made[..., :unrotated].float(), given[..., :unrotated]) > NEAR:
            raise NotFusable("its queries and keys are made otherwise")
    if off_by(pairs[..., unrotated:].float(), handed.value) > NEAR:
        raise NotFusable("its values are made otherwise")
    rotation, least = None, 0.0
    if rotated:
        made = queries[..., unrotated:].float(), keys[..., unrotated:].float()
        rotation, least = rotation_of(
            made, (handed.query[..., unrotated:], handed.key[..., unrotated:]), angles
        )
    check_near(least, angles)
    if rotation is not None and rotation.rotated != rotated:
        raise NotFusable("some of what its keys have in common is not rotated")
    latents = LatentLayout(
        of_queries, to_queries, norm_of(norm, latent, like), to_pairs, unrotated, rotated, value
    )
    return AttentionLayout(
        into, out, handed.scale, handed.softmax.cap, handed.softmax.sinks, rotation, latent=latents
    )
