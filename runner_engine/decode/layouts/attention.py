"""What is done to queries and keys before attention, and to scores, found by a trial of a layer's
attention alone.

A few random rows go in; what the module hands to its attention is compared with its own
projections, normed and rotated in each way that C knows. So a layer without rotation, with another
table or with a cap is known without its family.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from runner_engine.decode.layouts.attention_layout import AttentionLayout
from runner_engine.decode.layouts.handed_over import POSITIONS, HandedOver, handed_over
from runner_engine.decode.layouts.norms import TOLERANCE
from runner_engine.decode.layouts.parts import (
    HEAD_NORMS,
    OF_ATTENTION,
    NotFusable,
    names_of_parts,
    projections_of,
)
from runner_engine.decode.layouts.query_scales import query_scale_of
from runner_engine.decode.layouts.rotations import NEAR, RopeTable, check_near, off_by, rotation_of
from runner_engine.kv_cache import Heads

IGNORED = {"rotary_emb"}  # parts that the whole model has as well
CLEARLY = 2  # times the error: less does not tell the orders of norm and rotation apart


def attention_of(
    model: Any, attention: Any, heads: Heads, rows: torch.Tensor, table: RopeTable | None
) -> AttentionLayout:
    """Return the layout of a layer's attention; rows [1, T, hidden], table: what rotates, or
    nothing."""
    norm_names = next((names for names in HEAD_NORMS if set(names) <= names_of_parts(attention)), ())
    names = projections_of(attention, OF_ATTENTION, {*norm_names, *IGNORED})
    into = tuple(getattr(attention, name) for name in names.into)
    scale = query_scale_of(attention)
    positions = POSITIONS if scale is None else scale.positions
    angles = None if table is None else table.angles(rows, positions)
    if angles is not None and angles.are_complex:
        raise NotFusable("its queries and keys are rotated as complex numbers")
    others = {} if scale is None else {"position_ids": torch.tensor([positions])}
    handed = handed_over(model, attention, rows, angles, **others)
    key_scale = float(getattr(attention, "key_multiplier", 1.0))
    queries, keys, has_gates, has_heads_together = _made(into, rows, heads, handed, key_scale)
    given = handed.query, handed.key
    if scale is not None:
        given = given[0] / scale.at(torch.tensor(positions))[:, None, None], given[1]
    if not norm_names:
        rotation, least = rotation_of((queries.float(), keys.float()), given, angles)
        check_near(least, angles)
        norms, norms_all, norms_rotated = None, False, False
    else:
        norms = getattr(attention, norm_names[0]), getattr(attention, norm_names[1])
        norms_all = _norms_all_heads(norms, (queries, keys))
        first, second = _normed(norms, (queries, keys), norms_all)
        rotation, least = rotation_of((first.float(), second.float()), given, angles)
        after, least_after = rotation_of(
            (queries.float(), keys.float()),
            given,
            angles,
            lambda turned: _normed(norms, (turned[0].to(rows), turned[1].to(rows)), norms_all),
        )
        # with equal weights both orders give the same
        is_off = least > TOLERANCE.get(rows.dtype, 0)
        if norms_rotated := is_off and CLEARLY * least_after < least:
            rotation, least = after, least_after
        check_near(least, angles)
    return AttentionLayout(
        into,
        getattr(attention, names.out),
        handed.scale,
        handed.softmax.cap,
        handed.softmax.sinks,
        rotation,
        norms,
        norms_all,
        norms_rotated,
        scale,
        has_gates,
        has_heads_together,
        key_scale,
    )


def _made(
    into: Sequence[nn.Module], rows: torch.Tensor, heads: Heads, handed: HandedOver, key_scale: float
) -> tuple[torch.Tensor, torch.Tensor, bool, bool]:
    """Return queries and keys [T, H, D] as they are projected, and how they stand: with gates, or
    together."""
    counts = heads.kv_heads * heads.group, heads.kv_heads, heads.kv_heads
    shapes = [tuple(some.shape[1:]) for some in (handed.query, handed.key, handed.value)]
    if shapes != [(count, heads.dim) for count in counts]:
        raise NotFusable("its layers have heads of other shapes")
    widths = [count * heads.dim for count in counts]
    made = torch.cat([layer(rows)[0] for layer in into], -1)
    if has_gates := len(into) == 3 and made.shape[-1] == sum(widths) + widths[0]:
        queries_and_gates, made = made[:, : 2 * widths[0]], made[:, 2 * widths[0] :]
        made = torch.cat((queries_and_gates.view(len(made), -1, 2, heads.dim)[:, :, 0].flatten(1), made), -1)
    if made.shape[-1] != sum(widths):
        raise NotFusable("its queries, keys and values have other sizes")
    queries, keys, values = (some.view(len(some), -1, heads.dim) for some in torch.split(made, widths, -1))
    keys = keys * key_scale
    if off_by(values.float(), handed.value) <= NEAR:
        return queries, keys, has_gates, False
    if len(into) == 1 and heads.group == 1:
        queries, keys, values = made.view(len(made), -1, 3, heads.dim).unbind(2)
    if off_by(values.float(), handed.value) > NEAR:
        raise NotFusable("its values are made otherwise")
    return queries, keys, has_gates, True


def _norms_all_heads(norms: tuple[nn.Module, nn.Module], heads: tuple[torch.Tensor, torch.Tensor]) -> bool:
    """Return whether all heads [T, H, D] are normed together, and not each."""
    weights = [getattr(norm, "weight", None) for norm in norms]
    sizes = [weight.numel() for weight in weights if isinstance(weight, torch.Tensor)]
    if all(size == heads[0].shape[-1] for size in sizes):
        return False
    if sizes != [some.shape[1] * some.shape[2] for some in heads]:
        raise NotFusable("its norms of queries and keys have a weight for each head")
    return True


def _normed(
    norms: tuple[nn.Module, nn.Module], heads: tuple[torch.Tensor, torch.Tensor], together: bool
) -> list[torch.Tensor]:
    """Return normed queries and keys [T, H, D]."""
    if not together:
        return [norm(some) for norm, some in zip(norms, heads, strict=True)]
    return [norm(some.flatten(1)).view_as(some) for norm, some in zip(norms, heads, strict=True)]
