"""Maps .gguf files of Mamba-2 models and of hybrids of Mamba-2 and attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner_engine.checkpoints.architectures.base import (
    ATTENTION,
    HEAD,
    NORMS,
    PAIRED,
    RMS,
    VOCABULARY,
    WHOLE,
    Architecture,
    NumericArray,
    TensorChange,
    count_decoder_layers,
    has_tensor_with_suffix,
    read_architecture_setting,
    read_head_dim,
    read_setting_per_layer,
)
from runner_engine.checkpoints.architectures.gated_delta import compute_decay_logarithms, reshape_conv_weights
from runner_engine.checkpoints.architectures.llama import MULTIPLIERS, SHARED_INPUT
from runner_engine.checkpoints.architectures.rope import read_rope_parameters

if TYPE_CHECKING:
    from runner_engine.checkpoints.gguf_header import GgufHeader


def _flatten_tensor(_config: Any, tensor: NumericArray) -> NumericArray:
    return tensor.reshape(-1)


CHANGES = {
    "ssm_a": TensorChange(
        numbers=lambda config, values: compute_decay_logarithms(config, values).reshape(-1)
    ),
    "ssm_d": TensorChange(numbers=_flatten_tensor),
    "ssm_norm": TensorChange(numbers=_flatten_tensor),
    "ssm_conv1d.weight": TensorChange(numbers=reshape_conv_weights),
}


def _map_mixer_names(prefix: str) -> dict[str, str]:
    return {
        "ssm_in": f"{prefix}.in_proj",
        "ssm_out": f"{prefix}.out_proj",
        "ssm_conv1d": f"{prefix}.conv1d",
        "ssm_norm": f"{prefix}.norm",
        "ssm_a": f"{prefix}.A_log",
        "ssm_d": f"{prefix}.D",
        "ssm_dt.bias": f"{prefix}.dt_bias",
    }


def _read_ssm_sizes(header: GgufHeader, prefix: str) -> dict[str, Any]:
    heads, width = (
        read_architecture_setting(header, "ssm.time_step_rank", 1),
        read_architecture_setting(header, "ssm.inner_size", 0),
    )
    return {
        f"{prefix}n_heads": heads,
        f"{prefix}d_head": width // heads,
        f"{prefix}d_state": read_architecture_setting(header, "ssm.state_size"),
        f"{prefix}n_groups": read_architecture_setting(header, "ssm.group_count", 1),
        f"{prefix}d_conv": read_architecture_setting(header, "ssm.conv_kernel", 4),
        f"{prefix}expand": width / max(1, read_architecture_setting(header, "embedding_length", 1)),
        f"{prefix}conv_bias": has_tensor_with_suffix(header, "ssm_conv1d.bias"),
        f"{prefix}proj_bias": has_tensor_with_suffix(header, "ssm_in.bias"),
    }


def _convert_whole_to_int(value: float) -> int | float:
    return int(value) if float(value).is_integer() else value


def _build_granite_hybrid_config(header: GgufHeader) -> dict[str, Any]:
    heads = read_setting_per_layer(header, "attention.head_count_kv")
    experts, shared = (
        read_architecture_setting(header, "expert_count", 0),
        read_architecture_setting(header, "expert_shared_feed_forward_length", 0),
    )
    sizes = read_setting_per_layer(header, "feed_forward_length")
    has_rope = bool(read_architecture_setting(header, "rope.scaling.finetuned", False))
    made = _read_ssm_sizes(header, "mamba_")
    made["mamba_expand"] = _convert_whole_to_int(made["mamba_expand"])
    width = read_architecture_setting(header, "embedding_length", 1) // max(
        1, read_architecture_setting(header, "attention.head_count", 1)
    )
    found = {name: read_architecture_setting(header, key) for key, name in MULTIPLIERS.items()}
    return (
        made
        | {
            "layer_types": ["full_attention" if count else "linear_attention" for count in heads],
            "num_key_value_heads": max(heads, default=0),
            "num_local_experts": experts,
            "num_experts_per_tok": read_architecture_setting(header, "expert_used_count", 0),
            "intermediate_size": max(sizes, default=0),
            "shared_intermediate_size": shared or max(sizes, default=0),
            "position_embedding_type": "rope" if has_rope else None,
            "rope_parameters": read_rope_parameters(header, read_head_dim(header)),
            "attention_multiplier": found["attention_multiplier"] or width**-0.5,
        }
        | {name: value for name, value in found.items() if value is not None}
    )


def _build_nemotron_config(header: GgufHeader) -> dict[str, Any]:
    heads, sizes = (
        read_setting_per_layer(header, "attention.head_count_kv"),
        read_setting_per_layer(header, "feed_forward_length"),
    )
    experts = read_architecture_setting(header, "expert_count", 0)
    network = "moe" if experts else "mlp"
    kinds = [
        "full_attention" if count else (network if size else "linear_attention")
        for count, size in zip(heads, sizes, strict=True)
    ]
    made = _read_ssm_sizes(header, "")
    return {
        "layers_block_type": kinds,
        "num_key_value_heads": max(heads, default=0),
        "head_dim": read_head_dim(header),
        "intermediate_size": max(sizes, default=0),
        "mamba_num_heads": made["n_heads"],
        "mamba_head_dim": made["d_head"],
        "ssm_state_size": made["d_state"],
        "n_groups": made["n_groups"],
        "conv_kernel": made["d_conv"],
        "use_conv_bias": made["conv_bias"],
        "mamba_proj_bias": made["proj_bias"],
        "n_routed_experts": experts or 1,
        "n_shared_experts": read_architecture_setting(header, "expert_shared_count", 1),
        "num_experts_per_tok": read_architecture_setting(header, "expert_used_count", 1),
        "moe_intermediate_size": read_architecture_setting(
            header, "expert_feed_forward_length", max(sizes, default=0)
        ),
        "moe_shared_expert_intermediate_size": read_architecture_setting(
            header, "expert_shared_feed_forward_length", 0
        ),
        "norm_topk_prob": bool(read_architecture_setting(header, "expert_weights_norm", True)),
        "routed_scaling_factor": read_architecture_setting(header, "expert_weights_scale", 1.0),
        "n_group": read_architecture_setting(header, "expert_group_count", 1),
        "topk_group": read_architecture_setting(header, "expert_group_used_count", 1),
        "moe_latent_size": read_architecture_setting(header, "moe_latent_size"),
        "attention_bias": has_tensor_with_suffix(header, "attn_q.bias"),
        "mlp_bias": has_tensor_with_suffix(header, "ffn_up.bias"),
        "num_nextn_predict_layers": 0,
    }


def _build_falcon_config(header: GgufHeader) -> dict[str, Any]:
    """Return a Falcon-H1 config. Its multipliers are 1, because the converter has multiplied the
    weights by them.
    """
    made = _read_ssm_sizes(header, "mamba_")
    made["mamba_expand"] = _convert_whole_to_int(made["mamba_expand"])
    ones = ("lm_head", "embedding", "key", "attention_out", "attention_in", "ssm_in", "ssm_out")
    return (
        made
        | {f"{name}_multiplier": 1.0 for name in ones}
        | {
            "mamba_d_ssm": read_architecture_setting(header, "ssm.inner_size"),
            "mamba_rms_norm": has_tensor_with_suffix(header, "ssm_norm.weight"),
            "mamba_norm_before_gate": False,
            "mlp_multipliers": [1.0, 1.0],
            "ssm_multipliers": [1.0] * 5,
            "head_dim": read_head_dim(header),
            "rope_parameters": read_rope_parameters(header, read_head_dim(header)),
        }
    )


def _build_mamba2_config(header: GgufHeader) -> dict[str, Any]:
    made = _read_ssm_sizes(header, "")
    return {
        "num_heads": made["n_heads"],
        "head_dim": made["d_head"],
        "state_size": made["d_state"],
        "n_groups": made["n_groups"],
        "conv_kernel": made["d_conv"],
        "expand": _convert_whole_to_int(made["expand"]),
        "use_conv_bias": made["conv_bias"],
        "use_bias": made["proj_bias"],
        "num_hidden_layers": count_decoder_layers(header),
    }


NEMOTRON = Architecture(
    "nemotron_h",
    {**VOCABULARY, **HEAD, "attention.layer_norm_rms_epsilon": "layer_norm_epsilon"},
    {
        **_map_mixer_names("mixer"),
        "attn_norm": "norm",
        "attn_q": "mixer.q_proj",
        "attn_k": "mixer.k_proj",
        "attn_v": "mixer.v_proj",
        "attn_output": "mixer.o_proj",
        "ffn_up": "mixer.up_proj",
        "ffn_down": "mixer.down_proj",
        "ffn_gate_inp": "mixer.gate",
        "exp_probs_b.bias": "mixer.gate.e_score_correction_bias",
        "ffn_up_shexp": "mixer.shared_experts.up_proj",
        "ffn_down_shexp": "mixer.shared_experts.down_proj",
        "ffn_latent_down": "mixer.fc1_latent_proj",
        "ffn_latent_up": "mixer.fc2_latent_proj",
    },
    {"token_embd": "model.embeddings", "output_norm": "model.norm_f", "output": "lm_head"},
    computed=_build_nemotron_config,
    changes={**CHANGES, **PAIRED},
    experts="mixer.experts",
)
KNOWN = {
    "granitehybrid": Architecture(
        "granitemoehybrid",
        {**RMS, **VOCABULARY},
        {
            **_map_mixer_names("mamba"),
            **ATTENTION,
            **NORMS,
            "ffn_gate_inp": "block_sparse_moe.router",
            "ffn_down_shexp": "shared_mlp.output_linear",
            "ffn_down": "shared_mlp.output_linear",
        },
        computed=_build_granite_hybrid_config,
        changes={**CHANGES, **PAIRED},
        joined={**SHARED_INPUT, ("ffn_gate.weight", "ffn_up.weight"): "shared_mlp.input_linear.weight"},
        experts="block_sparse_moe.experts",
    ),
    "nemotron_h": NEMOTRON,
    "nemotron_h_moe": NEMOTRON,
    "falcon-h1": Architecture(
        "falcon_h1",
        {**RMS, **VOCABULARY, **HEAD},
        {
            **_map_mixer_names("mamba"),
            **ATTENTION,
            "attn_norm": "input_layernorm",
            "ffn_norm": "pre_ff_layernorm.weight",  # files have it without an ending
            "ffn_norm.weight": "pre_ff_layernorm.weight",
            "ffn_gate": "feed_forward.gate_proj",
            "ffn_up": "feed_forward.up_proj",
            "ffn_down": "feed_forward.down_proj",
        },
        {**WHOLE, "output_norm": "model.final_layernorm"},
        computed=_build_falcon_config,
        changes=CHANGES,
    ),
    "mamba2": Architecture(
        "mamba2",
        {**VOCABULARY, "attention.layer_norm_rms_epsilon": "layer_norm_epsilon"},
        {**_map_mixer_names("mixer"), "attn_norm": "norm"},
        {"token_embd": "backbone.embeddings", "output_norm": "backbone.norm_f", "output": "lm_head"},
        layers="backbone.layers",
        computed=_build_mamba2_config,
        changes=CHANGES,
    ),
}
