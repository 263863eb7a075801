"""Maps Gemma's .gguf files. The models have extra norms, and most layers have sliding windows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner_engine.checkpoints.architectures.base import (
    HEAD,
    LAYER,
    ONE_MORE,
    RMS,
    THETA,
    VOCABULARY,
    WHOLE,
    Architecture,
    count_decoder_layers,
    derive_attention_types,
    read_architecture_setting,
    read_float32_tensor,
    read_head_dim,
    read_setting_per_layer,
)

if TYPE_CHECKING:
    from runner_engine.checkpoints.gguf_header import GgufHeader

SETTINGS = {
    **RMS,
    **VOCABULARY,
    **HEAD,
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
GEMMA = {
    **LAYER,
    "ffn_norm": "pre_feedforward_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
GEMMA4 = {
    **GEMMA,
    "layer_output_scale.weight": "layer_scalar",
    "inp_gate": "per_layer_input_gate",
    "proj": "per_layer_projection",
    "post_norm": "post_per_layer_input_norm",
    "ffn_gate_inp": "router.proj",
    "ffn_gate_inp.scale": "router.scale",
    "ffn_down_exps.scale": "router.per_expert_scale",
    "post_ffw_norm_1": "post_feedforward_layernorm_1",
    "post_ffw_norm_2": "post_feedforward_layernorm_2",
    "pre_ffw_norm_2": "pre_feedforward_layernorm_2",
}
GEMMA4_WHOLE = {
    **WHOLE,
    "per_layer_token_embd": "model.embed_tokens_per_layer",
    "per_layer_model_proj": "model.per_layer_model_projection",
    "per_layer_proj_norm": "model.per_layer_projection_norm",
}
LOCAL_THETA = 10000.0  # of layers with a window, where the file does not say it
HUGE = 1e20  # a factor of frequencies by which nothing is rotated
# these divide queries by another number than the square root of a head
LAYERS_OF_27B = {"gemma2": 46, "gemma3": 62}


def _infer_query_pre_attn_scalar(header: GgufHeader) -> dict[str, Any]:
    """Return `query_pre_attn_scalar`, whose inverse square root scales queries.

    A .gguf file does not store this number.
    """
    is_27b = count_decoder_layers(header) == LAYERS_OF_27B[header.architecture]
    width = read_architecture_setting(header, "embedding_length", 0) // max(
        1, read_architecture_setting(header, "attention.head_count", 1)
    )
    return {"query_pre_attn_scalar": width if is_27b else read_head_dim(header)}


def _build_gemma3_config(header: GgufHeader) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "rope_type": "default",
        "rope_theta": read_architecture_setting(header, "rope.freq_base", 1000000.0),
    }
    if read_architecture_setting(header, "rope.scaling.type", "none") == "linear":
        whole |= {
            "rope_type": "linear",
            "factor": read_architecture_setting(header, "rope.scaling.factor", 1.0),
        }
    return _infer_query_pre_attn_scalar(header) | {
        "layer_types": derive_attention_types(header, full_attention_interval=6),
        "rope_parameters": {"full_attention": whole, "sliding_attention": _build_sliding_window_rope(header)},
    }


def _build_sliding_window_rope(header: GgufHeader) -> dict[str, Any]:
    return {
        "rope_type": "default",
        "rope_theta": read_architecture_setting(header, "rope.freq_base_swa", LOCAL_THETA),
    }


def _build_gemma4_config(header: GgufHeader) -> dict[str, Any]:
    """Return a Gemma 4 config. Layers with sliding windows have smaller attention heads."""
    layer_types = derive_attention_types(header, full_attention_interval=6)
    heads = dict(zip(layer_types, read_setting_per_layer(header, "attention.head_count_kv"), strict=True))
    sizes = read_setting_per_layer(header, "feed_forward_length")
    experts = read_architecture_setting(header, "expert_count", 0)
    names = {tensor.name for tensor in header.tensors}
    layers_with_keys = [
        number
        for number, kind in enumerate(layer_types)
        if kind == "full_attention" and f"blk.{number}.attn_k.weight" in names
    ]
    whole = {
        "rope_type": "proportional",
        "partial_rotary_factor": _read_rope_dimension_fraction(header),
        "rope_theta": read_architecture_setting(header, "rope.freq_base", 1000000.0),
    }
    return {
        "layer_types": layer_types,
        "head_dim": read_architecture_setting(header, "attention.key_length_swa", read_head_dim(header)),
        "global_head_dim": read_head_dim(header),
        "num_key_value_heads": heads.get("sliding_attention", heads.get("full_attention", 1)),
        "num_global_key_value_heads": heads.get("full_attention"),
        "attention_k_eq_v": any(f"blk.{number}.attn_v.weight" not in names for number in layers_with_keys),
        "num_kv_shared_layers": read_architecture_setting(header, "attention.shared_kv_layers", 0),
        "hidden_size_per_layer_input": read_architecture_setting(
            header, "embedding_length_per_layer_input", 0
        ),
        "vocab_size_per_layer_input": read_architecture_setting(header, "vocab_size")
        or header.metadata.get("tokenizer.ggml.tokens"),
        "intermediate_size": min(sizes),
        "use_double_wide_mlp": len(set(sizes)) > 1,
        "enable_moe_block": bool(experts),
        "num_experts": experts or None,
        "top_k_experts": read_architecture_setting(header, "expert_used_count"),
        "moe_intermediate_size": read_architecture_setting(header, "expert_feed_forward_length"),
        "rope_parameters": {"full_attention": whole, "sliding_attention": _build_sliding_window_rope(header)},
    }


def _read_rope_dimension_fraction(header: GgufHeader) -> float:
    """Return the fraction of each head's dimensions that rope rotates.

    The file marks unrotated dimensions by a huge frequency divisor.
    """
    for tensor in header.tensors:
        if tensor.name == "rope_freqs.weight" and tensor.dtype == "F32":
            factors = read_float32_tensor(tensor)
            return float((factors < HUGE).mean())
    return 1.0


KNOWN = {
    "gemma2": Architecture(
        "gemma2", {**SETTINGS, **THETA}, GEMMA, computed=_infer_query_pre_attn_scalar, changes=ONE_MORE
    ),
    "gemma3": Architecture("gemma3_text", SETTINGS, GEMMA, computed=_build_gemma3_config, changes=ONE_MORE),
    "gemma4": Architecture(
        "gemma4_text", SETTINGS, GEMMA4, GEMMA4_WHOLE, computed=_build_gemma4_config, experts="experts"
    ),
}
