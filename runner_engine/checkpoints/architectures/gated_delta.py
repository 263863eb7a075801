"""Qwen's hybrids: most layers keep a state by the gated delta rule, each fourth has attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from runner_engine.checkpoints.architectures.base import (
    ATTENTION,
    EXPERTS,
    HEAD,
    MLP,
    ONE_MORE,
    RMS,
    VOCABULARY,
    Architecture,
    Change,
    Numbers,
    Order,
    head_dim_of,
    layer_count,
    of_file,
)
from runner_engine.checkpoints.architectures.mixtures import SHARED_EXPERT
from runner_engine.checkpoints.architectures.rope import rope_of

if TYPE_CHECKING:
    from runner_engine.checkpoints.gguf_header import Header

EVERY = 4  # layers: one has attention
SETTINGS = {
    **RMS,
    **VOCABULARY,
    **HEAD,
    "ssm.conv_kernel": "linear_conv_kernel_dim",
    "ssm.state_size": "linear_key_head_dim",
    "ssm.group_count": "linear_num_key_heads",
    "ssm.time_step_rank": "linear_num_value_heads",
}
MIXTURE = {**EXPERTS, "expert_shared_feed_forward_length": "shared_expert_intermediate_size"}
LAYER = {
    **ATTENTION,
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ssm_conv1d": "linear_attn.conv1d",
    "ssm_norm": "linear_attn.norm",
    "ssm_out": "linear_attn.out_proj",
    "ssm_a": "linear_attn.A_log",
    "ssm_dt.bias": "linear_attn.dt_bias",
}
QWEN35 = {
    **LAYER,
    "attn_qkv": "linear_attn.in_proj_qkv",
    "attn_gate": "linear_attn.in_proj_z",
    "ssm_beta": "linear_attn.in_proj_b",
    "ssm_alpha": "linear_attn.in_proj_a",
}
ROUTED = {"ffn_gate_inp": "mlp.gate", **SHARED_EXPERT}


def _settings(header: Header) -> dict[str, Any]:
    every, head_dim = of_file(header, "full_attention_interval", EVERY), head_dim_of(header)
    kinds = [(number + 1) % every == 0 for number in range(layer_count(header))]
    rope = rope_of(header, head_dim)
    rope.setdefault("partial_rotary_factor", 1.0)
    return {
        "layer_types": ["full_attention" if is_full else "linear_attention" for is_full in kinds],
        "linear_value_head_dim": of_file(header, "ssm.inner_size", 0)
        // of_file(header, "ssm.time_step_rank", 1),
        "head_dim": head_dim,
        "rope_parameters": rope,
    }


def _next(header: Header) -> dict[str, Any]:
    return _settings(header) | {"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []}


def _by_key_heads(size: str | None) -> Order:
    """Return the order of value heads by their key heads: in the file, one value head of each comes
    first.

    size: the config's name for how many rows a head has; None: one.
    """

    def order(config: Any, rows: int) -> Numbers:
        keys, values = config.linear_num_key_heads, config.linear_num_value_heads
        of_head = 1 if size is None else getattr(config, size)
        return np.arange(rows).reshape(values // keys, keys, of_head).swapaxes(0, 1).reshape(-1)

    return order


VALUE_HEADS, SCALARS = _by_key_heads("linear_value_head_dim"), _by_key_heads(None)


def _only_values(config: Any, rows: int) -> Numbers:
    """Return the order where the rows of queries and keys, which stay, come before those of
    values."""
    before = 2 * config.linear_num_key_heads * config.linear_key_head_dim
    return np.concatenate((np.arange(before), before + VALUE_HEADS(config, rows - before)))


def _head_by_head(config: Any, rows: int) -> Numbers:
    """Return the order of a key head's query, key, values and gates, of all queries, keys, values
    and gates."""
    heads = config.linear_num_key_heads
    key = heads * config.linear_key_head_dim
    value = (rows - 2 * key) // 2
    ends = (key, 2 * key, 2 * key + value)
    parts = (part.reshape(heads, -1) for part in np.split(np.arange(rows), ends))
    return np.concatenate([*parts], axis=1).reshape(-1)


def decay(_config: Any, values: Numbers) -> Numbers:
    """Return A_log of A, whose values are below zero."""
    return np.log(-values)


def channels(_config: Any, values: Numbers) -> Numbers:
    """Return the weights of a convolution that takes each channel by itself: [channels, 1,
    length]."""
    return values.reshape(values.shape[0], 1, -1)


NORMS = {**ONE_MORE, "ssm_norm": Change()}
TILED = {
    **NORMS,
    "attn_qkv": Change(rows=_only_values),
    "attn_gate": Change(rows=VALUE_HEADS),
    "ssm_beta": Change(rows=SCALARS),
    "ssm_alpha": Change(rows=SCALARS),
    "ssm_dt.bias": Change(rows=SCALARS),
    "ssm_a": Change(rows=SCALARS, numbers=decay),
    "ssm_conv1d": Change(rows=_only_values, numbers=channels),
    "ssm_out": Change(columns=VALUE_HEADS),
}
QKVZ = "linear_attn.in_proj_qkvz.weight"

KNOWN = {
    "qwen35": Architecture("qwen3_5_text", SETTINGS, {**QWEN35, **MLP}, computed=_settings, changes=TILED),
    "qwen35moe": Architecture(
        "qwen3_5_moe_text",
        SETTINGS | MIXTURE,
        QWEN35 | ROUTED,
        computed=_settings,
        changes=TILED,
        experts="mlp.experts",
    ),
    "qwen3next": Architecture(
        "qwen3_next",
        SETTINGS | MIXTURE,
        {**LAYER, **ROUTED, "ssm_ba": "linear_attn.in_proj_ba", "ssm_in": "linear_attn.in_proj_qkvz"},
        computed=_next,
        changes={
            **NORMS,
            "ssm_a": Change(numbers=decay),
            "ssm_conv1d": Change(numbers=channels),
            QKVZ: Change(rows=_head_by_head),
        },
        joined={("attn_qkv.weight", "attn_gate.weight"): QKVZ},
        experts="mlp.experts",
    ),
}
