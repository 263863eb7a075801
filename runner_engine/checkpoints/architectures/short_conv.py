"""Maps LFM2's .gguf files: short convolutions in most layers, attention in the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner_engine.checkpoints.architectures.base import (
    EXPERTS,
    VOCABULARY,
    WHOLE,
    Architecture,
    TensorChange,
    has_tensor_with_suffix,
    read_head_dim,
    read_setting_per_layer,
)
from runner_engine.checkpoints.architectures.gated_delta import reshape_conv_weights
from runner_engine.checkpoints.architectures.rope import read_rope_parameters

if TYPE_CHECKING:
    from runner_engine.checkpoints.gguf_header import GgufHeader

SETTINGS = {**VOCABULARY, "attention.layer_norm_rms_epsilon": "norm_eps", "shortconv.l_cache": "conv_L_cache"}
LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.out_proj",
    "attn_q_norm": "self_attn.q_layernorm",
    "attn_k_norm": "self_attn.k_layernorm",
    "attn_norm": "operator_norm",
    "ffn_norm": "ffn_norm",
    "ffn_gate": "feed_forward.w1",
    "ffn_up": "feed_forward.w3",
    "ffn_down": "feed_forward.w2",
    "shortconv.conv": "conv.conv",
    "shortconv.in_proj": "conv.in_proj",
    "shortconv.out_proj": "conv.out_proj",
}
# the norm after the last layer has the name of the one after the embedding, for old readers of such
# files
LFM2_WHOLE = {**WHOLE, "token_embd_norm": "model.embedding_norm", "output_norm": "model.embedding_norm"}
CHANGES = {"shortconv.conv": TensorChange(numbers=reshape_conv_weights)}


def _build_lfm2_config(header: GgufHeader) -> dict[str, Any]:
    heads = read_setting_per_layer(header, "attention.head_count_kv")
    return {
        "layer_types": ["full_attention" if count else "conv" for count in heads],
        "num_key_value_heads": max(heads, default=0),
        "block_auto_adjust_ff_dim": False,
        "conv_bias": has_tensor_with_suffix(header, "shortconv.conv.bias"),
        "rope_parameters": read_rope_parameters(header, read_head_dim(header)),
    }


def _build_lfm2_moe_config(header: GgufHeader) -> dict[str, Any]:
    has_bias = has_tensor_with_suffix(header, "exp_probs_b.bias")
    return _build_lfm2_config(header) | {"norm_topk_prob": True, "use_expert_bias": has_bias}


KNOWN = {
    "lfm2": Architecture("lfm2", SETTINGS, LAYER, LFM2_WHOLE, computed=_build_lfm2_config, changes=CHANGES),
    "lfm2moe": Architecture(
        "lfm2_moe",
        {**SETTINGS, **EXPERTS, "leading_dense_block_count": "num_dense_layers"},
        {**LAYER, "ffn_gate_inp": "feed_forward.gate", "exp_probs_b.bias": "feed_forward.expert_bias"},
        LFM2_WHOLE,
        computed=_build_lfm2_moe_config,
        changes=CHANGES,
        experts="feed_forward.experts",
    ),
}
