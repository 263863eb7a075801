"""Maps .gguf files of mixtures of experts with attention in every layer and rotary pairs in
transformers' order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner_engine.checkpoints.architectures.base import (
    ATTENTION,
    EXPERTS,
    LAYER,
    MLP,
    NORMS,
    RMS,
    VOCABULARY,
    Architecture,
    derive_attention_types,
    has_tensor_with_suffix,
    read_architecture_setting,
    read_head_dim,
)
from runner_engine.checkpoints.architectures.rope import read_rope_parameters

if TYPE_CHECKING:
    from runner_engine.checkpoints.gguf_header import GgufHeader

SIGMOID = 2  # of llama.cpp's ways from a router's numbers to weights
ROUTED = {**ATTENTION, **NORMS, "ffn_gate_inp": "mlp.gate"}
SHARED_EXPERT = {
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
}
SHARED_EXPERTS = {
    "ffn_gate_shexp": "mlp.shared_experts.gate_proj",
    "ffn_up_shexp": "mlp.shared_experts.up_proj",
    "ffn_down_shexp": "mlp.shared_experts.down_proj",
}


def _build_rope_settings(header: GgufHeader) -> dict[str, Any]:
    return {"rope_parameters": read_rope_parameters(header, read_head_dim(header))}


def _build_qwen2_moe_config(header: GgufHeader) -> dict[str, Any]:
    settings = {"norm_topk_prob": False, "decoder_sparse_step": 1, "mlp_only_layers": []}
    return (
        settings | {"qkv_bias": has_tensor_with_suffix(header, "attn_q.bias")} | _build_rope_settings(header)
    )


def _build_qwen3_moe_config(header: GgufHeader) -> dict[str, Any]:
    settings = {"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []}
    return settings | {"head_dim": read_head_dim(header)} | _build_rope_settings(header)


def _build_gpt_oss_config(header: GgufHeader) -> dict[str, Any]:
    rope = _build_rope_settings(header)
    if rope["rope_parameters"]["rope_type"] == "yarn":  # its frequencies are not rounded to whole ones
        rope["rope_parameters"] |= {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}
    return rope | {
        "head_dim": read_head_dim(header),
        "layer_types": derive_attention_types(header, full_attention_interval=2),
    }


def _build_glm4_moe_config(header: GgufHeader) -> dict[str, Any]:
    return _build_rope_settings(header) | {
        "head_dim": read_head_dim(header),
        "attention_bias": has_tensor_with_suffix(header, "attn_q.bias"),
        "use_qk_norm": has_tensor_with_suffix(header, "attn_q_norm.weight"),
        "norm_topk_prob": bool(read_architecture_setting(header, "expert_weights_norm", True)),
        "n_group": read_architecture_setting(header, "expert_group_count", 1),
        "topk_group": read_architecture_setting(header, "expert_group_used_count", 1),
        "num_nextn_predict_layers": 0,
    }


KNOWN = {
    "qwen2moe": Architecture(
        "qwen2_moe",
        {
            **RMS,
            **VOCABULARY,
            **EXPERTS,
            "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
        },
        {**ROUTED, **SHARED_EXPERT},
        computed=_build_qwen2_moe_config,
        experts="mlp.experts",
    ),
    "qwen3moe": Architecture(
        "qwen3_moe",
        {**RMS, **VOCABULARY, **EXPERTS},
        {**ROUTED},
        computed=_build_qwen3_moe_config,
        experts="mlp.experts",
    ),
    "olmoe": Architecture(
        "olmoe",
        {**RMS, **VOCABULARY, "expert_count": "num_experts", "expert_used_count": "num_experts_per_tok"},
        {**ROUTED},
        computed=lambda header: _build_rope_settings(header) | {"clip_qkv": None, "norm_topk_prob": False},
        experts="mlp.experts",
    ),
    "gpt-oss": Architecture(
        "gpt_oss",
        {
            **RMS,
            **VOCABULARY,
            "expert_count": "num_local_experts",
            "expert_used_count": "num_experts_per_tok",
            "expert_feed_forward_length": "intermediate_size",
            "attention.sliding_window": "sliding_window",
        },
        {
            **ATTENTION,
            "attn_norm": "input_layernorm",
            "post_attention_norm": "post_attention_layernorm",
            "attn_sinks.weight": "self_attn.sinks",
            "ffn_gate_inp": "mlp.router",
        },
        computed=_build_gpt_oss_config,
        experts="mlp.experts",
    ),
    "glm4moe": Architecture(
        "glm4_moe",
        {
            **RMS,
            **VOCABULARY,
            "expert_count": "n_routed_experts",
            "expert_used_count": "num_experts_per_tok",
            "expert_feed_forward_length": "moe_intermediate_size",
            "expert_shared_count": "n_shared_experts",
            "leading_dense_block_count": "first_k_dense_replace",
            "expert_weights_scale": "routed_scaling_factor",
        },
        {
            **LAYER,
            **MLP,
            **SHARED_EXPERTS,
            "post_attention_norm": "post_attention_layernorm",
            "ffn_gate_inp": "mlp.gate",
            "exp_probs_b.bias": "mlp.gate.e_score_correction_bias",
        },
        computed=_build_glm4_moe_config,
        experts="mlp.experts",
    ),
}
