"""Describes attention whose queries and output are computed by experts (JetMoE), after a test run.

All chosen experts of a token share its keys and values, which attention gets once for each expert.
"""

from __future__ import annotations

from typing import Any

import torch

from runner_engine.decode.layouts.attention import IGNORED
from runner_engine.decode.layouts.attention_capture import POSITIONS, capture_attention_inputs
from runner_engine.decode.layouts.attention_layout import AttentionLayout
from runner_engine.decode.layouts.mixtures import infer_expert_block_layout
from runner_engine.decode.layouts.parts import NotFusable, computing_child_names
from runner_engine.decode.layouts.rotations import (
    NEAR,
    RopeTable,
    check_rotation_error,
    find_rope_rotation,
    max_relative_error,
)
from runner_engine.experts import is_expert_block
from runner_engine.kv_cache import KvCacheSpec


def has_attention_experts(attention: Any) -> bool:
    names = computing_child_names(attention) - IGNORED
    return names == {"experts", "kv_proj"} and is_expert_block(attention.experts)


def infer_expert_attention_layout(
    model: Any,
    attention: Any,
    kv_spec: KvCacheSpec,
    hidden_states: torch.Tensor,
    rope_table: RopeTable | None,
) -> AttentionLayout:
    """Run an attention layer on test inputs, and describe its computation for the C kernels.

    hidden_states: [1, T, hidden] inputs of the test run.
    """
    angles = None if rope_table is None else rope_table.compute_rope_angles(hidden_states, POSITIONS)
    handed = capture_attention_inputs(model, attention, hidden_states, angles)
    experts = infer_expert_block_layout(attention.experts)
    tokens, chosen = hidden_states.shape[1], experts.router.formula.chosen
    shape = tokens, kv_spec.kv_heads, kv_spec.dim
    if kv_spec.group != 1 or any(some.shape != shape for some in (handed.query, handed.key, handed.value)):
        raise NotFusable("the attention heads have an unsupported shape")
    queries = attention.experts.map(hidden_states)[0].view(shape)
    keys, values = (
        some.view(tokens, -1, kv_spec.dim).repeat(1, chosen, 1)
        for some in attention.kv_proj(hidden_states)[0].chunk(2, dim=-1)
    )
    if values.shape != shape or max_relative_error(values.float(), handed.value) > NEAR:
        raise NotFusable("values use an unsupported formula")
    rotation, least = find_rope_rotation((queries.float(), keys.float()), (handed.query, handed.key), angles)
    check_rotation_error(least, angles)
    return AttentionLayout(
        (attention.kv_proj,),
        None,
        handed.scale,
        handed.softmax.cap,
        handed.softmax.sinks,
        rotation,
        experts=experts,
    )
