"""Mixtures of experts in which every layer has attention, and whose rotary pairs stay where they
are."""

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
    has_tensor,
    head_dim_of,
    of_file,
    window_layers,
)
from runner_engine.checkpoints.architectures.rope import rope_of

if TYPE_CHECKING:
    from runner_engine.checkpoints.gguf_header import Header

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


def _rope(header: Header) -> dict[str, Any]:
    return {"rope_parameters": rope_of(header, head_dim_of(header))}


def _qwen2(header: Header) -> dict[str, Any]:
    settings = {"norm_topk_prob": False, "decoder_sparse_step": 1, "mlp_only_layers": []}
    return settings | {"qkv_bias": has_tensor(header, "attn_q.bias")} | _rope(header)


def _qwen3(header: Header) -> dict[str, Any]:
    settings = {"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []}
    return settings | {"head_dim": head_dim_of(header)} | _rope(header)


def _gpt_oss(header: Header) -> dict[str, Any]:
    rope = _rope(header)
    if rope["rope_parameters"]["rope_type"] == "yarn":  # its frequencies are not rounded to whole ones
        rope["rope_parameters"] |= {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}
    return rope | {"head_dim": head_dim_of(header), "layer_types": window_layers(header, every=2)}


def _glm4(header: Header) -> dict[str, Any]:
    return _rope(header) | {
        "head_dim": head_dim_of(header),
        "attention_bias": has_tensor(header, "attn_q.bias"),
        "use_qk_norm": has_tensor(header, "attn_q_norm.weight"),
        "norm_topk_prob": bool(of_file(header, "expert_weights_norm", True)),
        "n_group": of_file(header, "expert_group_count", 1),
        "topk_group": of_file(header, "expert_group_used_count", 1),
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
        computed=_qwen2,
        experts="mlp.experts",
    ),
    "qwen3moe": Architecture(
        "qwen3_moe", {**RMS, **VOCABULARY, **EXPERTS}, {**ROUTED}, computed=_qwen3, experts="mlp.experts"
    ),
    "olmoe": Architecture(
        "olmoe",
        {**RMS, **VOCABULARY, "expert_count": "num_experts", "expert_used_count": "num_experts_per_tok"},
        {**ROUTED},
        computed=lambda header: _rope(header) | {"clip_qkv": None, "norm_topk_prob": False},
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
        computed=_gpt_oss,
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
        computed=_glm4,
        experts="mlp.experts",
    ),
}
