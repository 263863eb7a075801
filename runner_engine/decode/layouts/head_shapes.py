"""Describes attention layers whose heads have a shape of their own (Gemma 3n and 4), after a test run.

The KV cache stores heads as wide as the widest of all layers. Values are normed too, some layers
use projected keys as values, and some read the keys and values of an earlier layer.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch

from runner_engine.decode.layouts.attention_capture import POSITIONS, capture_attention_inputs
from runner_engine.decode.layouts.attention_layout import AttentionLayout, HeadShapeLayout
from runner_engine.decode.layouts.norms import infer_norm_layout
from runner_engine.decode.layouts.parts import NotFusable, computing_child_names
from runner_engine.decode.layouts.rotations import (
    NEAR,
    RopeTable,
    check_rotation_error,
    find_rope_rotation,
    max_relative_error,
)
from runner_engine.kv_cache import KvCacheSpec

READS_EARLIER = frozenset(("q_proj", "q_norm", "o_proj"))
WITHOUT_VALUES = READS_EARLIER | {"k_proj", "k_norm", "v_norm"}
WITH_VALUES = WITHOUT_VALUES | {"v_proj"}


@dataclass(frozen=True)
class _Heads:
    """Queries, keys and values [T, H, D] that a layer projects, before rotation."""

    queries: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor


def has_own_head_shape(attention: Any) -> bool:
    return computing_child_names(attention) in (READS_EARLIER, WITHOUT_VALUES, WITH_VALUES)


def infer_head_shape_attention_layout(
    model: Any,
    attention: Any,
    kv_spec: KvCacheSpec,
    hidden_states: torch.Tensor,
    rope_table: RopeTable | None,
) -> AttentionLayout:
    """Run an attention layer on test inputs, and describe its computation for the C kernels.

    hidden_states: [1, T, hidden] inputs of the test run.
    """
    names, like = computing_child_names(attention), hidden_states[0, :1]
    reads_earlier, dim = names == READS_EARLIER, int(attention.head_dim)
    query_heads = kv_spec.kv_heads * kv_spec.group
    angles = None if rope_table is None else rope_table.compute_rope_angles(hidden_states, POSITIONS)
    # keys and values [1, KVH, T, D] that a layer without projections of its own would read
    earlier = hidden_states.new_zeros(1, kv_spec.kv_heads, len(POSITIONS), dim)
    handed = capture_attention_inputs(
        model, attention, hidden_states, angles, shared_kv_states=defaultdict(lambda: (earlier, earlier))
    )
    kv_heads = handed.key.shape[1]
    if (
        handed.query.shape[1:] != (query_heads, dim)
        or dim > kv_spec.dim
        or kv_spec.kv_heads % kv_heads
        or any(some.shape[2] != dim for some in (handed.key, handed.value))
        or handed.scale != getattr(attention, "scaling", handed.scale)
    ):
        raise NotFusable("the attention heads have an unsupported shape")
    heads = _project_heads(attention, hidden_states, names, dim)
    if not reads_earlier and max_relative_error(heads.values.float(), handed.value) > NEAR:
        raise NotFusable("values use an unsupported formula")
    projected, given = (heads.queries, heads.keys), (handed.query, handed.key)
    if reads_earlier:
        projected, given = (heads.queries, heads.queries), (handed.query, handed.query)
    rotation, least = find_rope_rotation((projected[0].float(), projected[1].float()), given, angles)
    check_rotation_error(least, angles)
    into = tuple(getattr(attention, name) for name in ("q_proj", "k_proj", "v_proj") if name in names)
    shape = HeadShapeLayout(
        kv_heads,
        dim,
        reads_earlier,
        names == WITHOUT_VALUES,
        infer_norm_layout(attention.q_norm, dim, like),
        None if reads_earlier else infer_norm_layout(attention.k_norm, dim, like),
        None if reads_earlier else infer_norm_layout(attention.v_norm, dim, like),
    )
    return AttentionLayout(
        into, attention.o_proj, handed.scale, handed.softmax.cap, handed.softmax.sinks, rotation, shape=shape
    )


def _project_heads(attention: Any, hidden_states: torch.Tensor, names: set[str], dim: int) -> _Heads:
    """Project and normalize the heads of a test run."""

    def project(name: str) -> torch.Tensor:
        projected: torch.Tensor = getattr(attention, name)(hidden_states)[0]
        return projected.view(len(projected), -1, dim)

    queries: torch.Tensor = attention.q_norm(project("q_proj"))
    if names == READS_EARLIER:
        return _Heads(queries, queries, queries)
    keys = project("k_proj")
    values = project("v_proj") if names == WITH_VALUES else keys
    return _Heads(queries, attention.k_norm(keys), attention.v_norm(values))
