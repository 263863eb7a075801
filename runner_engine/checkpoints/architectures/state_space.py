"""Mamba-2 and its hybrids: state spaces in all layers, in most of them, or beside attention in
each."""

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
    Change,
    Numbers,
    has_tensor,
    head_dim_of,
    layer_count,
    of_file,
    of_layers,
)
from runner_engine.checkpoints.architectures.gated_delta import channels, decay
from runner_engine.checkpoints.architectures.llama import MULTIPLIERS, SHARED_INPUT
from runner_engine.checkpoints.architectures.rope import rope_of

if TYPE_CHECKING:
    from runner_engine.checkpoints.gguf_header import Header


def _flat(_config: Any, values: Numbers) -> Numbers:
    return values.reshape(-1)


CHANGES = {
    "ssm_a": Change(numbers=lambda config, values: decay(config, values).reshape(-1)),
    "ssm_d": Change(numbers=_flat),
    "ssm_norm": Change(numbers=_flat),
    "ssm_conv1d.weight": Change(numbers=channels),
}


def _mixer(place: str) -> dict[str, str]:
    """Return where the tensors of a state space are in a layer."""
    return {
        "ssm_in": f"{place}.in_proj",
        "ssm_out": f"{place}.out_proj",
        "ssm_conv1d": f"{place}.conv1d",
        "ssm_norm": f"{place}.norm",
        "ssm_a": f"{place}.A_log",
        "ssm_d": f"{place}.D",
        "ssm_dt.bias": f"{place}.dt_bias",
    }


def _sizes(header: Header, prefix: str) -> dict[str, Any]:
    """Return the sizes of state spaces by the names that most hybrids have for them."""
    heads, width = of_file(header, "ssm.time_step_rank", 1), of_file(header, "ssm.inner_size", 0)
    return {
        f"{prefix}n_heads": heads,
        f"{prefix}d_head": width // heads,
        f"{prefix}d_state": of_file(header, "ssm.state_size"),
        f"{prefix}n_groups": of_file(header, "ssm.group_count", 1),
        f"{prefix}d_conv": of_file(header, "ssm.conv_kernel", 4),
        f"{prefix}expand": width / max(1, of_file(header, "embedding_length", 1)),
        f"{prefix}conv_bias": has_tensor(header, "ssm_conv1d.bias"),
        f"{prefix}proj_bias": has_tensor(header, "ssm_in.bias"),
    }


def _whole_if(value: float) -> int | float:
    """Return a whole number as an int."""
    return int(value) if float(value).is_integer() else value


def _granite(header: Header) -> dict[str, Any]:
    heads = of_layers(header, "attention.head_count_kv")
    experts, shared = (
        of_file(header, "expert_count", 0),
        of_file(header, "expert_shared_feed_forward_length", 0),
    )
    sizes = of_layers(header, "feed_forward_length")
    has_rope = bool(of_file(header, "rope.scaling.finetuned", False))
    made = _sizes(header, "mamba_")
    made["mamba_expand"] = _whole_if(made["mamba_expand"])
    width = of_file(header, "embedding_length", 1) // max(1, of_file(header, "attention.head_count", 1))
    found = {name: of_file(header, key) for key, name in MULTIPLIERS.items()}
    return (
        made
        | {
            "layer_types": ["full_attention" if count else "linear_attention" for count in heads],
            "num_key_value_heads": max(heads, default=0),
            "num_local_experts": experts,
            "num_experts_per_tok": of_file(header, "expert_used_count", 0),
            "intermediate_size": max(sizes, default=0),
            "shared_intermediate_size": shared or max(sizes, default=0),
            "position_embedding_type": "rope" if has_rope else None,
            "rope_parameters": rope_of(header, head_dim_of(header)),
            "attention_multiplier": found["attention_multiplier"] or width**-0.5,
        }
        | {name: value for name, value in found.items() if value is not None}
    )


def _nemotron(header: Header) -> dict[str, Any]:
    heads, sizes = (of_layers(header, "attention.head_count_kv"), of_layers(header, "feed_forward_length"))
    experts = of_file(header, "expert_count", 0)
    network = "moe" if experts else "mlp"
    kinds = [
        "full_attention" if count else (network if size else "linear_attention")
        for count, size in zip(heads, sizes, strict=True)
    ]
    made = _sizes(header, "")
    return {
        "layers_block_type": kinds,
        "num_key_value_heads": max(heads, default=0),
        "head_dim": head_dim_of(header),
        "intermediate_size": max(sizes, default=0),
        "mamba_num_heads": made["n_heads"],
        "mamba_head_dim": made["d_head"],
        "ssm_state_size": made["d_state"],
        "n_groups": made["n_groups"],
        "conv_kernel": made["d_conv"],
        "use_conv_bias": made["conv_bias"],
        "mamba_proj_bias": made["proj_bias"],
        "n_routed_experts": experts or 1,
        "n_shared_experts": of_file(header, "expert_shared_count", 1),
        "num_experts_per_tok": of_file(header, "expert_used_count", 1),
        "moe_intermediate_size": of_file(header, "expert_feed_forward_length", max(sizes, default=0)),
        "moe_shared_expert_intermediate_size": of_file(header, "expert_shared_feed_forward_length", 0),
        "norm_topk_prob": bool(of_file(header, "expert_weights_norm", True)),
        "routed_scaling_factor": of_file(header, "expert_weights_scale", 1.0),
        "n_group": of_file(header, "expert_group_count", 1),
        "topk_group": of_file(header, "expert_group_used_count", 1),
        "moe_latent_size": of_file(header, "moe_latent_size"),
        "attention_bias": has_tensor(header, "attn_q.bias"),
        "mlp_bias": has_tensor(header, "ffn_up.bias"),
        "num_nextn_predict_layers": 0,
    }


def _falcon(header: Header) -> dict[str, Any]:
    """Return multipliers of 1: the converter has multiplied the weights by the model's."""
    made = _sizes(header, "mamba_")
    made["mamba_expand"] = _whole_if(made["mamba_expand"])
    ones = ("lm_head", "embedding", "key", "attention_out", "attention_in", "ssm_in", "ssm_out")
    return (
        made
        | {f"{name}_multiplier": 1.0 for name in ones}
        | {
            "mamba_d_ssm": of_file(header, "ssm.inner_size"),
            "mamba_rms_norm": has_tensor(header, "ssm_norm.weight"),
            "mamba_norm_before_gate": False,
            "mlp_multipliers": [1.0, 1.0],
            "ssm_multipliers": [1.0] * 5,
            "head_dim": head_dim_of(header),
            "rope_parameters": rope_of(header, head_dim_of(header)),
        }
    )


def _mamba2(header: Header) -> dict[str, Any]:
    made = _sizes(header, "")
    return {
        "num_heads": made["n_heads"],
        "head_dim": made["d_head"],
        "state_size": made["d_state"],
        "n_groups": made["n_groups"],
        "conv_kernel": made["d_conv"],
        "expand": _whole_if(made["expand"]),
        "use_conv_bias": made["conv_bias"],
        "use_bias": made["proj_bias"],
        "num_hidden_layers": layer_count(header),
    }


NEMOTRON = Architecture(
    "nemotron_h",
    {**VOCABULARY, **HEAD, "attention.layer_norm_rms_epsilon": "layer_norm_epsilon"},
    {
        **_mixer("mixer"),
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
    computed=_nemotron,
    changes={**CHANGES, **PAIRED},
    experts="mixer.experts",
)
KNOWN = {
    "granitehybrid": Architecture(
        "granitemoehybrid",
        {**RMS, **VOCABULARY},
        {
            **_mixer("mamba"),
            **ATTENTION,
            **NORMS,
            "ffn_gate_inp": "block_sparse_moe.router",
            "ffn_down_shexp": "shared_mlp.output_linear",
            "ffn_down": "shared_mlp.output_linear",
        },
        computed=_granite,
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
            **_mixer("mamba"),
            **ATTENTION,
            "attn_norm": "input_layernorm",
            "ffn_norm": "pre_ff_layernorm.weight",  # files have it without an ending
            "ffn_norm.weight": "pre_ff_layernorm.weight",
            "ffn_gate": "feed_forward.gate_proj",
            "ffn_up": "feed_forward.up_proj",
            "ffn_down": "feed_forward.down_proj",
        },
        {**WHOLE, "output_norm": "model.final_layernorm"},
        computed=_falcon,
        changes=CHANGES,
    ),
    "mamba2": Architecture(
        "mamba2",
        {**VOCABULARY, "attention.layer_norm_rms_epsilon": "layer_norm_epsilon"},
        {**_mixer("mixer"), "attn_norm": "norm"},
        {"token_embd": "backbone.embeddings", "output_norm": "backbone.norm_f", "output": "lm_head"},
        layers="backbone.layers",
        computed=_mamba2,
        changes=CHANGES,
    ),
}
