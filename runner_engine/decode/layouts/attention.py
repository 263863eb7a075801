"""Describes an attention layer after a test run: its norms, RoPE, scales and logit caps.

A few random hidden states go in. The queries and keys that the module passes to attention
are compared with its own projections, normalized and rotated in each way that C supports.
So layers without RoPE, with another RoPE table or with a logit cap are recognized without
knowing the model family.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from runner_engine.decode.layouts.attention_capture import (
    POSITIONS,
    CapturedAttentionInputs,
    capture_attention_inputs,
)
from runner_engine.decode.layouts.attention_layout import AttentionLayout
from runner_engine.decode.layouts.norms import TOLERANCE
from runner_engine.decode.layouts.parts import (
    HEAD_NORMS,
    OF_ATTENTION,
    NotFusable,
    computing_child_names,
    match_known_projection_names,
)
from runner_engine.decode.layouts.query_scales import find_query_scale
from runner_engine.decode.layouts.rotations import (
    NEAR,
    RopeTable,
    check_rotation_error,
    find_rope_rotation,
    max_relative_error,
)
from runner_engine.kv_cache import KvCacheSpec

IGNORED = {"rotary_emb"}  # parts that the whole model has as well
CLEARLY = 2  # times the error: less does not tell the orders of norm and rotation apart


def infer_attention_layout(
    model: Any,
    attention: Any,
    kv_spec: KvCacheSpec,
    hidden_states: torch.Tensor,
    rope_table: RopeTable | None,
) -> AttentionLayout:
    """Run an attention layer on test inputs, and describe its computation for the C kernels.

    hidden_states: [1, T, hidden] inputs of the test run.
    """
    norm_names = next((names for names in HEAD_NORMS if set(names) <= computing_child_names(attention)), ())
    names = match_known_projection_names(attention, OF_ATTENTION, {*norm_names, *IGNORED})
    into = tuple(getattr(attention, name) for name in names.into)
    scale = find_query_scale(attention)
    positions = POSITIONS if scale is None else scale.trial_positions
    angles = None if rope_table is None else rope_table.compute_rope_angles(hidden_states, positions)
    others = {} if scale is None else scale.trial_arguments
    handed = capture_attention_inputs(model, attention, hidden_states, angles, **others)
    key_scale = float(getattr(attention, "key_multiplier", 1.0))
    queries, keys, has_gates, has_heads_together = _project_queries_and_keys(
        into, hidden_states, kv_spec, handed, key_scale
    )
    given = handed.query, handed.key
    if scale is not None:
        given = given[0] / scale.compute_scales(torch.tensor(positions))[:, None, None], given[1]
    softmax_scale = handed.scale
    if softmax_scale == 1 and (factor := float(getattr(attention, "scaling", 1.0))) != 1:
        softmax_scale, given = factor, (given[0] / factor, given[1])  # queries are scaled before attention
    if not norm_names:
        rotation, least = find_rope_rotation((queries.float(), keys.float()), given, angles)
        check_rotation_error(least, angles)
        norms, norms_all, norms_rotated = None, False, False
    else:
        norms = getattr(attention, norm_names[0]), getattr(attention, norm_names[1])
        norms_all = _has_norm_over_all_heads(norms, (queries, keys))
        first, second = _normalize_heads(norms, (queries, keys), norms_all)
        rotation, least = find_rope_rotation((first.float(), second.float()), given, angles)
        after, least_after = find_rope_rotation(
            (queries.float(), keys.float()),
            given,
            angles,
            lambda turned: _normalize_heads(
                norms, (turned[0].to(hidden_states), turned[1].to(hidden_states)), norms_all
            ),
        )
        # with equal weights both orders give the same
        is_off = least > TOLERANCE.get(hidden_states.dtype, 0)
        if norms_rotated := is_off and CLEARLY * least_after < least:
            rotation, least = after, least_after
        check_rotation_error(least, angles)
    return AttentionLayout(
        into,
        getattr(attention, names.out),
        softmax_scale,
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


def _project_queries_and_keys(
    projections: Sequence[nn.Module],
    hidden_states: torch.Tensor,
    kv_spec: KvCacheSpec,
    captured: CapturedAttentionInputs,
    key_scale: float,
) -> tuple[torch.Tensor, torch.Tensor, bool, bool]:
    """Return the projected queries and keys [T, H, D] and two flags on the projections' layout.

    The flags tell whether gates follow the queries, and whether queries, keys and values are
    interleaved by head.
    """
    counts = kv_spec.kv_heads * kv_spec.group, kv_spec.kv_heads, kv_spec.kv_heads
    shapes = [tuple(some.shape[1:]) for some in (captured.query, captured.key, captured.value)]
    if shapes != [(count, kv_spec.dim) for count in counts]:
        raise NotFusable("the attention heads have an unsupported shape")
    widths = [count * kv_spec.dim for count in counts]
    made = torch.cat([layer(hidden_states)[0] for layer in projections], -1)
    if has_gates := len(projections) == 3 and made.shape[-1] == sum(widths) + widths[0]:
        queries_and_gates, made = made[:, : 2 * widths[0]], made[:, 2 * widths[0] :]
        made = torch.cat(
            (queries_and_gates.view(len(made), -1, 2, kv_spec.dim)[:, :, 0].flatten(1), made), -1
        )
    if made.shape[-1] != sum(widths):
        raise NotFusable("the projections of queries, keys and values have unsupported sizes")
    queries, keys, values = (some.view(len(some), -1, kv_spec.dim) for some in torch.split(made, widths, -1))
    keys = keys * key_scale
    if max_relative_error(values.float(), captured.value) <= NEAR:
        return queries, keys, has_gates, False
    if len(projections) == 1:
        together = made.view(len(made), kv_spec.kv_heads, kv_spec.group + 2, kv_spec.dim)
        parts = torch.split(together, [kv_spec.group, 1, 1], dim=2)
        queries, keys, values = (part.flatten(1, 2) for part in parts)
    if max_relative_error(values.float(), captured.value) > NEAR:
        raise NotFusable("its values are made otherwise")
    return queries, keys, has_gates, True


def _has_norm_over_all_heads(
    norms: tuple[nn.Module, nn.Module], heads: tuple[torch.Tensor, torch.Tensor]
) -> bool:
    """Whether one norm covers all heads [T, H, D] together instead of each head separately."""
    weights = [getattr(norm, "weight", None) for norm in norms]
    sizes = [weight.numel() for weight in weights if isinstance(weight, torch.Tensor)]
    if all(size == heads[0].shape[-1] for size in sizes):
        return False
    if sizes != [some.shape[1] * some.shape[2] for some in heads]:
        raise NotFusable("the norms of queries and keys have separate weights per head")
    return True


def _normalize_heads(
    norms: tuple[nn.Module, nn.Module], heads: tuple[torch.Tensor, torch.Tensor], is_joint_norm: bool
) -> list[torch.Tensor]:
    """Normalize queries and keys [T, H, D].

    is_joint_norm: one norm covers all heads.
    """
    if not is_joint_norm:
        return [norm(some) for norm, some in zip(norms, heads, strict=True)]
    return [norm(some.flatten(1)).view_as(some) for norm, some in zip(norms, heads, strict=True)]
