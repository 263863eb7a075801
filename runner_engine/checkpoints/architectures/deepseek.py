"""Maps DeepSeek's .gguf files: multi-head latent attention, and experts in some layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner_base.lazy_imports import LazyModule
from runner_engine.checkpoints.architectures.base import (
    LAYER,
    RMS,
    VOCABULARY,
    Architecture,
    NumericArray,
    TensorChange,
    read_architecture_setting,
)
from runner_engine.checkpoints.architectures.mixtures import SHARED_EXPERTS, SIGMOID
from runner_engine.checkpoints.architectures.rope import read_rope_parameters

if TYPE_CHECKING:
    import numpy as np
else:
    np = LazyModule("numpy")  # starts threads, after which MLflow's process cannot be forked

if TYPE_CHECKING:
    from runner_engine.checkpoints.gguf_header import GgufHeader

MSCALE_SHARE = 0.1  # of mscale_all_dim, as the converter writes it


def _build_deepseek_config(header: GgufHeader) -> dict[str, Any]:
    """Return a DeepSeek-V3 config if the router uses sigmoid scores, otherwise a DeepSeek-V2 config.

    Both versions have the same tensors.
    """
    rotated = read_architecture_setting(header, "rope.dimension_count", 64)
    latent = read_architecture_setting(header, "attention.kv_lora_rank", 512)
    key = read_architecture_setting(header, "attention.key_length_mla") or read_architecture_setting(
        header, "attention.key_length", latent + rotated
    )
    value = read_architecture_setting(header, "attention.value_length_mla") or read_architecture_setting(
        header, "attention.value_length", latent
    )
    rope = read_rope_parameters(header, rotated)
    if (factor := read_architecture_setting(header, "rope.scaling.yarn_log_multiplier")) and rope[
        "rope_type"
    ] == "yarn":
        rope |= {"mscale": factor / MSCALE_SHARE, "mscale_all_dim": factor / MSCALE_SHARE}
    groups = read_architecture_setting(header, "expert_group_count", 1)
    heads = read_architecture_setting(header, "attention.head_count", 1)
    is_v3 = read_architecture_setting(header, "expert_gating_func", 1) == SIGMOID
    settings = {
        "model_type": "deepseek_v3" if is_v3 else "deepseek_v2",
        "num_key_value_heads": heads,
        "q_lora_rank": read_architecture_setting(header, "attention.q_lora_rank"),
        "kv_lora_rank": latent,
        "qk_rope_head_dim": rotated,
        "qk_nope_head_dim": key - rotated,
        "v_head_dim": value,
        "rope_parameters": rope,
        "norm_topk_prob": bool(read_architecture_setting(header, "expert_weights_norm", False)),
        "n_group": groups,
        "topk_group": read_architecture_setting(header, "expert_group_used_count", 1),
        "num_nextn_predict_layers": 0,
    }
    if is_v3:
        return settings | {"rope_interleave": True}
    return settings | {"topk_method": "greedy" if groups == 1 else "group_limited_greedy"}


def _join_key_value_weights(config: Any, key_and_value_weights: list[NumericArray]) -> NumericArray:
    """Build kv_b_proj, [heads × (key + value), latent], from the key weights, [heads, latent, key],
    and the value weights.
    """
    keys, values = key_and_value_weights
    both = np.concatenate((keys.swapaxes(1, 2), values), axis=1)
    return both.reshape(-1, config.kv_lora_rank)


KNOWN = {
    "deepseek2": Architecture(
        "deepseek_v3",
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
            **SHARED_EXPERTS,
            "attn_q_a": "self_attn.q_a_proj",
            "attn_q_b": "self_attn.q_b_proj",
            "attn_q_a_norm": "self_attn.q_a_layernorm",
            "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
            "attn_kv_a_norm": "self_attn.kv_a_layernorm",
            "attn_kv_b": "self_attn.kv_b_proj",
            "ffn_gate_inp": "mlp.gate",
            "exp_probs_b.bias": "mlp.gate.e_score_correction_bias",
        },
        computed=_build_deepseek_config,
        changes={"self_attn.kv_b_proj.weight": TensorChange(together=_join_key_value_weights)},
        joined={("attn_k_b.weight", "attn_v_b.weight"): "self_attn.kv_b_proj.weight"},
        experts="mlp.experts",
    )
}
