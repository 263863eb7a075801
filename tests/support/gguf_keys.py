"""The keys of a .gguf file that llama.cpp's converter writes for a family, besides those that all
files have."""

from __future__ import annotations

from typing import Any

Keys = dict[str, Any]


def experts(config: Any) -> Keys:
    keys = {"expert_count": config.num_experts, "expert_used_count": config.num_experts_per_tok}
    size = getattr(config, "moe_intermediate_size", None)
    return keys | ({} if size is None else {"expert_feed_forward_length": size})


def local_experts(config: Any) -> Keys:
    return {"expert_count": config.num_local_experts, "expert_used_count": config.num_experts_per_tok}


def head(config: Any) -> Keys:
    return {"attention.key_length": config.head_dim, "attention.value_length": config.head_dim}


def rotated(config: Any) -> Keys:
    """Return how many numbers of a head are rotated."""
    return {
        "rope.dimension_count": getattr(config, "head_dim", None)
        or config.hidden_size // config.num_attention_heads
    }


def granite(config: Any) -> Keys:
    return {
        "attention.scale": config.attention_multiplier, "embedding_scale": config.embedding_multiplier,
        "residual_scale": config.residual_multiplier, "logit_scale": config.logits_scaling,
        "rope.dimension_count": config.hidden_size // config.num_attention_heads,
    }  # fmt: skip


def windows(config: Any) -> Keys:
    return {"attention.sliding_window": config.sliding_window}


def shared_expert(config: Any) -> Keys:
    return experts(config) | {"expert_shared_feed_forward_length": config.shared_expert_intermediate_size}


def routed(config: Any) -> Keys:
    """Return the keys of GLM's and DeepSeek's mixtures."""
    return {
        "expert_count": config.n_routed_experts, "expert_used_count": config.num_experts_per_tok,
        "expert_feed_forward_length": config.moe_intermediate_size, "expert_shared_count": config.n_shared_experts,
        "leading_dense_block_count": config.first_k_dense_replace, "expert_weights_scale": config.routed_scaling_factor,
        "expert_weights_norm": config.norm_topk_prob,
    }  # fmt: skip


def latent(config: Any) -> Keys:
    """Return the keys of DeepSeek's attention."""
    keys = routed(config) | {
        "attention.head_count_kv": 1, "attention.kv_lora_rank": config.kv_lora_rank,
        "attention.key_length": config.kv_lora_rank + config.qk_rope_head_dim,
        "attention.value_length": config.kv_lora_rank,
        "attention.key_length_mla": config.qk_nope_head_dim + config.qk_rope_head_dim,
        "attention.value_length_mla": config.v_head_dim, "rope.dimension_count": config.qk_rope_head_dim,
        "expert_gating_func": 2 if config.model_type == "deepseek_v3" else 1,
    }  # fmt: skip
    return keys | ({} if config.q_lora_rank is None else {"attention.q_lora_rank": config.q_lora_rank})


def gated_delta(config: Any) -> Keys:
    values, size = config.linear_num_value_heads, config.linear_value_head_dim
    return head(config) | {
        "ssm.conv_kernel": config.linear_conv_kernel_dim, "ssm.state_size": config.linear_key_head_dim,
        "ssm.group_count": config.linear_num_key_heads, "ssm.time_step_rank": values, "ssm.inner_size": values * size,
        "full_attention_interval": 3, "rope.dimension_count": config.head_dim // 4,
    }  # fmt: skip


def mrope(config: Any) -> Keys:
    """Return Qwen3.5's further keys: it rotates pictures by three numbers, and texts by one."""
    return gated_delta(config) | {"rope.dimension_sections": [1, 1, 0, 0]}


def short_conv(config: Any) -> Keys:
    heads = [config.num_key_value_heads if kind == "full_attention" else 0 for kind in config.layer_types]
    return {"attention.head_count_kv": heads, "shortconv.l_cache": config.conv_L_cache}


def short_conv_experts(config: Any) -> Keys:
    further = {"leading_dense_block_count": config.num_dense_layers, "expert_gating_func": 2}
    return short_conv(config) | experts(config) | further


def hybrid_keys(config: Any) -> Keys:
    heads = [config.num_key_value_heads if kind == "full_attention" else 0 for kind in config.layer_types]
    shared = (
        {"expert_shared_feed_forward_length": config.shared_intermediate_size}
        if config.num_local_experts
        else {}
    )
    mixture = (
        local_experts(config)
        if config.num_local_experts
        else {"feed_forward_length": config.shared_intermediate_size}
    )
    return granite(config) | mixture | shared | {
        "attention.head_count_kv": heads, "ssm.conv_kernel": config.mamba_d_conv, "ssm.state_size": config.mamba_d_state,
        "ssm.group_count": config.mamba_n_groups, "ssm.inner_size": config.mamba_expand * config.hidden_size,
        "ssm.time_step_rank": config.mamba_n_heads, "rope.scaling.finetuned": config.position_embedding_type == "rope",
    }  # fmt: skip


def nemotron(config: Any) -> Keys:
    kinds, size = config.layers_block_type, config.intermediate_size
    mixture = {} if "moe" not in kinds else {
        "expert_count": config.n_routed_experts, "expert_used_count": config.num_experts_per_tok,
        "expert_feed_forward_length": config.moe_intermediate_size, "expert_shared_count": config.n_shared_experts,
        "expert_shared_feed_forward_length": config.moe_shared_expert_intermediate_size,
        "expert_weights_norm": config.norm_topk_prob, "expert_weights_scale": config.routed_scaling_factor,
        "expert_group_count": config.n_group,
    }  # fmt: skip
    return head(config) | mixture | {
        "block_count": len(kinds), "ssm.conv_kernel": config.conv_kernel, "ssm.state_size": config.ssm_state_size,
        "attention.head_count_kv": [config.num_key_value_heads if kind == "full_attention" else 0 for kind in kinds],
        "feed_forward_length": [size if kind in ("mlp", "moe") else 0 for kind in kinds],
        "ssm.group_count": config.n_groups, "ssm.inner_size": config.mamba_num_heads * config.mamba_head_dim,
        "ssm.time_step_rank": config.mamba_num_heads, "attention.layer_norm_rms_epsilon": config.layer_norm_epsilon,
        "attention.layer_norm_epsilon": config.layer_norm_epsilon,
        "rope.dimension_count": config.head_dim,
    }  # fmt: skip


def falcon(config: Any) -> Keys:
    return head(config) | {
        "ssm.conv_kernel": config.mamba_d_conv, "ssm.state_size": config.mamba_d_state,
        "ssm.group_count": config.mamba_n_groups, "ssm.inner_size": config.mamba_d_ssm,
        "ssm.time_step_rank": config.mamba_n_heads,
    }  # fmt: skip


def mamba2(config: Any) -> Keys:
    width = config.expand * config.hidden_size
    return {
        "ssm.conv_kernel": config.conv_kernel, "ssm.state_size": config.state_size, "ssm.group_count": config.n_groups,
        "ssm.inner_size": width, "ssm.time_step_rank": config.num_heads, "attention.head_count": 0,
        "feed_forward_length": 0, "attention.layer_norm_rms_epsilon": config.layer_norm_epsilon,
    }  # fmt: skip


def gemma4(config: Any) -> Keys:
    mixture = {} if not config.enable_moe_block else {
        "expert_count": config.num_experts, "expert_used_count": config.top_k_experts,
        "expert_feed_forward_length": config.moe_intermediate_size,
    }  # fmt: skip
    sizes = [own.head_dim for own in config.per_layer_config]
    local, whole = sizes[0], sizes[1]
    return windows(config) | mixture | {
        "attention.shared_kv_layers": config.num_kv_shared_layers, "attention.key_length": whole,
        "embedding_length_per_layer_input": config.hidden_size_per_layer_input, "attention.value_length": whole,
        "attention.sliding_window_pattern": [kind == "sliding_attention" for kind in config.layer_types],
        "attention.key_length_swa": local, "attention.value_length_swa": local,
        "rope.dimension_count": whole, "rope.dimension_count_swa": local,
        "rope.freq_base": 1000000.0, "rope.freq_base_swa": 10000.0,
    }  # fmt: skip
