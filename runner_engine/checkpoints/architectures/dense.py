"""Maps .gguf files of dense models with attention in every layer and rotary pairs in transformers' order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner_engine.checkpoints.architectures.base import (
    ATTENTION,
    LAYER,
    MLP,
    RMS,
    THETA,
    VOCABULARY,
    Architecture,
    derive_attention_types,
    has_tensor_with_suffix,
    read_architecture_setting,
    read_head_dim,
)
from runner_engine.checkpoints.architectures.rope import read_rope_parameters, read_rope_parameters_if_scaled

if TYPE_CHECKING:
    from runner_engine.checkpoints.gguf_header import GgufHeader

LAYER_NORM = "attention.layer_norm_epsilon"
TRAINED = "original_max_position_embeddings"
WINDOW = {"attention.sliding_window": "sliding_window"}


def _build_qwen3_config(header: GgufHeader) -> dict[str, Any]:
    """Return Qwen3's rope settings, and the head size if the file states one."""
    own = read_architecture_setting(header, "attention.key_length")
    return read_rope_parameters_if_scaled(header) | ({} if own is None else {"head_dim": own})


def _build_phi3_config(header: GgufHeader) -> dict[str, Any]:
    """Return Phi-3's rope settings and its pretraining length.

    Phi-3's config gives the pretraining length precedence.
    """
    settings = read_rope_parameters_if_scaled(header)
    trained = settings.get("rope_parameters", {}).get(TRAINED)
    return settings | ({} if trained is None else {TRAINED: trained})


def _build_stablelm_config(header: GgufHeader) -> dict[str, Any]:
    has_bias = any(has_tensor_with_suffix(header, f"attn_{name}.bias") for name in "qkv")
    return {
        "use_qkv_bias": has_bias,
        "use_parallel_residual": not any("ffn_norm" in tensor.name for tensor in header.tensors),
    }


def _build_olmo2_config(header: GgufHeader) -> dict[str, Any]:
    """Return an Olmo 3 config, with unscaled rope in sliding-window layers, if the model has
    sliding windows.
    """
    rope = read_rope_parameters(header, read_head_dim(header))
    if read_architecture_setting(header, "attention.sliding_window") is None:
        return {"rope_parameters": rope}
    local = {
        "rope_type": "default",
        "rope_theta": read_architecture_setting(header, "rope.freq_base_swa", rope["rope_theta"]),
    }
    return {
        "model_type": "olmo3",
        "layer_types": derive_attention_types(header, full_attention_interval=4),
        "rope_parameters": {"full_attention": rope, "sliding_attention": local},
    }


def _build_cohere2_config(header: GgufHeader) -> dict[str, Any]:
    head_dim = read_head_dim(header)
    return {
        "head_dim": head_dim,
        "rope_parameters": read_rope_parameters(header, head_dim),
        "layer_types": derive_attention_types(header, full_attention_interval=4),
    }


def _build_glm4_config(header: GgufHeader) -> dict[str, Any]:
    head_dim = read_head_dim(header)
    return {
        "head_dim": head_dim,
        "attention_bias": has_tensor_with_suffix(header, "attn_q.bias"),
        "rope_parameters": read_rope_parameters(header, head_dim),
    }


KNOWN = {
    "qwen2": Architecture(
        "qwen2",
        RMS | VOCABULARY | THETA,
        computed=read_rope_parameters_if_scaled,
        is_read_by_transformers=True,
    ),
    "qwen3": Architecture(
        "qwen3", RMS | VOCABULARY | THETA, computed=_build_qwen3_config, is_read_by_transformers=True
    ),
    "phi3": Architecture(
        "phi3",
        RMS | VOCABULARY | THETA,
        {**LAYER, "ffn_up": "mlp.gate_up_proj"},
        computed=_build_phi3_config,
        is_read_by_transformers=True,
    ),
    "starcoder2": Architecture(
        "starcoder2",
        {LAYER_NORM: "norm_epsilon"},
        {**LAYER, "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"},
        is_read_by_transformers=True,
    ),
    "stablelm": Architecture(
        "stablelm",
        {**VOCABULARY, LAYER_NORM: "layer_norm_eps"},
        computed=_build_stablelm_config,
        is_read_by_transformers=True,
    ),
    "olmo2": Architecture(
        "olmo2",
        RMS | VOCABULARY | WINDOW,
        {
            **ATTENTION,
            **MLP,
            "post_attention_norm": "post_attention_layernorm",
            "post_ffw_norm": "post_feedforward_layernorm",
        },
        computed=_build_olmo2_config,
    ),
    "cohere2": Architecture(
        "cohere2",
        {**VOCABULARY, **WINDOW, LAYER_NORM: "layer_norm_eps", "logit_scale": "logit_scale"},
        {**ATTENTION, **MLP, "attn_norm": "input_layernorm"},
        computed=_build_cohere2_config,
    ),
    "glm4": Architecture(
        "glm4",
        RMS | VOCABULARY,
        {
            **LAYER,
            "ffn_up": "mlp.gate_up_proj",
            "post_attention_norm": "post_self_attn_layernorm",
            "post_ffw_norm": "post_mlp_layernorm",
        },
        computed=_build_glm4_config,
    ),
}
