"""Models without experts in which every layer has attention, and whose rotary pairs stay where they
are."""

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
    has_tensor,
    head_dim_of,
    of_file,
    window_layers,
)
from runner_engine.checkpoints.architectures.rope import rope_of, scaled_rope

if TYPE_CHECKING:
    from runner_engine.checkpoints.gguf_header import Header

LAYER_NORM = "attention.layer_norm_epsilon"
TRAINED = "original_max_position_embeddings"
WINDOW = {"attention.sliding_window": "sliding_window"}


def _qwen3(header: Header) -> dict[str, Any]:
    """Return the size of a head where the file says it, which is not the model's width shared
    out."""
    own = of_file(header, "attention.key_length")
    return scaled_rope(header) | ({} if own is None else {"head_dim": own})


def _phi3(header: Header) -> dict[str, Any]:
    """Return the rotary embedding, and the length of the pretraining where Phi-3's config has it
    with precedence."""
    settings = scaled_rope(header)
    trained = settings.get("rope_parameters", {}).get(TRAINED)
    return settings | ({} if trained is None else {TRAINED: trained})


def _stablelm(header: Header) -> dict[str, Any]:
    has_bias = any(has_tensor(header, f"attn_{name}.bias") for name in "qkv")
    return {
        "use_qkv_bias": has_bias,
        "use_parallel_residual": not any("ffn_norm" in tensor.name for tensor in header.tensors),
    }


def _olmo2(header: Header) -> dict[str, Any]:
    """Return Olmo 3's settings if there are windows: layers that have one rotate as if texts were
    never long."""
    rope = rope_of(header, head_dim_of(header))
    if of_file(header, "attention.sliding_window") is None:
        return {"rope_parameters": rope}
    local = {"rope_type": "default", "rope_theta": of_file(header, "rope.freq_base_swa", rope["rope_theta"])}
    return {
        "model_type": "olmo3",
        "layer_types": window_layers(header, every=4),
        "rope_parameters": {"full_attention": rope, "sliding_attention": local},
    }


def _cohere2(header: Header) -> dict[str, Any]:
    head_dim = head_dim_of(header)
    return {
        "head_dim": head_dim,
        "rope_parameters": rope_of(header, head_dim),
        "layer_types": window_layers(header, every=4),
    }


def _glm4(header: Header) -> dict[str, Any]:
    head_dim = head_dim_of(header)
    return {
        "head_dim": head_dim,
        "attention_bias": has_tensor(header, "attn_q.bias"),
        "rope_parameters": rope_of(header, head_dim),
    }


KNOWN = {
    "qwen2": Architecture(
        "qwen2", RMS | VOCABULARY | THETA, computed=scaled_rope, is_read_by_transformers=True
    ),
    "qwen3": Architecture("qwen3", RMS | VOCABULARY | THETA, computed=_qwen3, is_read_by_transformers=True),
    "phi3": Architecture(
        "phi3",
        RMS | VOCABULARY | THETA,
        {**LAYER, "ffn_up": "mlp.gate_up_proj"},
        computed=_phi3,
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
        computed=_stablelm,
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
        computed=_olmo2,
    ),
    "cohere2": Architecture(
        "cohere2",
        {**VOCABULARY, **WINDOW, LAYER_NORM: "layer_norm_eps", "logit_scale": "logit_scale"},
        {**ATTENTION, **MLP, "attn_norm": "input_layernorm"},
        computed=_cohere2,
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
        computed=_glm4,
    ),
}
