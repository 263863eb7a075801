"""Maps .gguf files of Qwen's hybrid models, with attention in every fourth layer and Gated DeltaNet
in the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner_base.lazy_imports import LazyModule
from runner_engine.checkpoints.architectures.base import (
    ATTENTION,
    EXPERTS,
    HEAD,
    MLP,
    ONE_MORE,
    RMS,
    VOCABULARY,
    Architecture,
    NumericArray,
    RowOrderFunction,
    TensorChange,
    count_decoder_layers,
    read_architecture_setting,
    read_head_dim,
)
from runner_engine.checkpoints.architectures.mixtures import SHARED_EXPERT
from runner_engine.checkpoints.architectures.rope import read_rope_parameters

if TYPE_CHECKING:
    import numpy as np
else:
    np = LazyModule("numpy")  # starts threads, after which MLflow's process cannot be forked

if TYPE_CHECKING:
    from runner_engine.checkpoints.gguf_header import GgufHeader

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


def _build_gated_delta_config(header: GgufHeader) -> dict[str, Any]:
    every, head_dim = (
        read_architecture_setting(header, "full_attention_interval", EVERY),
        read_head_dim(header),
    )
    kinds = [(number + 1) % every == 0 for number in range(count_decoder_layers(header))]
    rope = read_rope_parameters(header, head_dim)
    rope.setdefault("partial_rotary_factor", 1.0)
    return {
        "layer_types": ["full_attention" if is_full else "linear_attention" for is_full in kinds],
        "linear_value_head_dim": read_architecture_setting(header, "ssm.inner_size", 0)
        // read_architecture_setting(header, "ssm.time_step_rank", 1),
        "head_dim": head_dim,
        "rope_parameters": rope,
    }


def _build_qwen3_next_config(header: GgufHeader) -> dict[str, Any]:
    return _build_gated_delta_config(header) | {
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def _build_value_head_order_function(head_size_key: str | None) -> RowOrderFunction:
    """Return a function that groups the rows of value heads by key head.

    The .gguf file interleaves the groups. head_size_key: the config's name for the rows per
    head; None: one.
    """

    def compute_row_order(config: Any, num_rows: int) -> NumericArray:
        keys, values = config.linear_num_key_heads, config.linear_num_value_heads
        of_head = 1 if head_size_key is None else getattr(config, head_size_key)
        return np.arange(num_rows).reshape(values // keys, keys, of_head).swapaxes(0, 1).reshape(-1)

    return compute_row_order


VALUE_HEADS, SCALARS = (
    _build_value_head_order_function("linear_value_head_dim"),
    _build_value_head_order_function(None),
)


def _compute_value_row_order(config: Any, num_rows: int) -> NumericArray:
    before = 2 * config.linear_num_key_heads * config.linear_key_head_dim
    return np.concatenate((np.arange(before), before + VALUE_HEADS(config, num_rows - before)))


def _compute_key_head_row_order(config: Any, num_rows: int) -> NumericArray:
    heads = config.linear_num_key_heads
    key = heads * config.linear_key_head_dim
    value = (num_rows - 2 * key) // 2
    ends = (key, 2 * key, 2 * key + value)
    parts = (part.reshape(heads, -1) for part in np.split(np.arange(num_rows), ends))
    return np.concatenate([*parts], axis=1).reshape(-1)


def compute_decay_logarithms(_config: Any, decays: NumericArray) -> NumericArray:
    """Return A_log, the logarithm of -A. All elements of A are negative."""
    return np.log(-decays)


def reshape_conv_weights(_config: Any, weights: NumericArray) -> NumericArray:
    """Reshape the weights of a depthwise convolution to [channels, 1, length]."""
    return weights.reshape(weights.shape[0], 1, -1)


NORMS = {**ONE_MORE, "ssm_norm": TensorChange()}
TILED = {
    **NORMS,
    "attn_qkv": TensorChange(rows=_compute_value_row_order),
    "attn_gate": TensorChange(rows=VALUE_HEADS),
    "ssm_beta": TensorChange(rows=SCALARS),
    "ssm_alpha": TensorChange(rows=SCALARS),
    "ssm_dt.bias": TensorChange(rows=SCALARS),
    "ssm_a": TensorChange(rows=SCALARS, numbers=compute_decay_logarithms),
    "ssm_conv1d": TensorChange(rows=_compute_value_row_order, numbers=reshape_conv_weights),
    "ssm_out": TensorChange(columns=VALUE_HEADS),
}
QKVZ = "linear_attn.in_proj_qkvz.weight"

KNOWN = {
    "qwen35": Architecture(
        "qwen3_5_text", SETTINGS, {**QWEN35, **MLP}, computed=_build_gated_delta_config, changes=TILED
    ),
    "qwen35moe": Architecture(
        "qwen3_5_moe_text",
        SETTINGS | MIXTURE,
        QWEN35 | ROUTED,
        computed=_build_gated_delta_config,
        changes=TILED,
        experts="mlp.experts",
    ),
    "qwen3next": Architecture(
        "qwen3_next",
        SETTINGS | MIXTURE,
        {**LAYER, **ROUTED, "ssm_ba": "linear_attn.in_proj_ba", "ssm_in": "linear_attn.in_proj_qkvz"},
        computed=_build_qwen3_next_config,
        changes={
            **NORMS,
            "ssm_a": TensorChange(numbers=compute_decay_logarithms),
            "ssm_conv1d": TensorChange(numbers=reshape_conv_weights),
            QKVZ: TensorChange(rows=_compute_key_head_row_order),
        },
        joined={("attn_qkv.weight", "attn_gate.weight"): QKVZ},
        experts="mlp.experts",
    ),
}
