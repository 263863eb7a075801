"""Gemma: norms around attention and around the feed-forward network, windows in most layers."""

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
    head_dim_of,
    layer_count,
    numbers_of,
    of_file,
    of_layers,
    window_layers,
)

if TYPE_CHECKING:
    from runner_engine.checkpoints.gguf_header import Header

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


def _scale(header: Header) -> dict[str, Any]:
    """Return the number by whose square root queries are divided, which is not in a file."""
    is_27b = layer_count(header) == LAYERS_OF_27B[header.architecture]
    width = of_file(header, "embedding_length", 0) // max(1, of_file(header, "attention.head_count", 1))
    return {"query_pre_attn_scalar": width if is_27b else head_dim_of(header)}


def _gemma3(header: Header) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "rope_type": "default",
        "rope_theta": of_file(header, "rope.freq_base", 1000000.0),
    }
    if of_file(header, "rope.scaling.type", "none") == "linear":
        whole |= {"rope_type": "linear", "factor": of_file(header, "rope.scaling.factor", 1.0)}
    return _scale(header) | {
        "layer_types": window_layers(header, every=6),
        "rope_parameters": {"full_attention": whole, "sliding_attention": _local_rope(header)},
    }


def _local_rope(header: Header) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": of_file(header, "rope.freq_base_swa", LOCAL_THETA)}


def _gemma4(header: Header) -> dict[str, Any]:
    """Return settings of layers with windows, which have smaller heads than the others."""
    layer_types = window_layers(header, every=6)
    heads = dict(zip(layer_types, of_layers(header, "attention.head_count_kv"), strict=True))
    sizes = of_layers(header, "feed_forward_length")
    experts = of_file(header, "expert_count", 0)
    names = {tensor.name for tensor in header.tensors}
    layers_with_keys = [
        number
        for number, kind in enumerate(layer_types)
        if kind == "full_attention" and f"blk.{number}.attn_k.weight" in names
    ]
    whole = {
        "rope_type": "proportional",
        "partial_rotary_factor": _rotated_share(header),
        "rope_theta": of_file(header, "rope.freq_base", 1000000.0),
    }
    return {
        "layer_types": layer_types,
        "head_dim": of_file(header, "attention.key_length_swa", head_dim_of(header)),
        "global_head_dim": head_dim_of(header),
        "num_key_value_heads": heads.get("sliding_attention", heads.get("full_attention", 1)),
        "num_global_key_value_heads": heads.get("full_attention"),
        "attention_k_eq_v": any(f"blk.{number}.attn_v.weight" not in names for number in layers_with_keys),
        "num_kv_shared_layers": of_file(header, "attention.shared_kv_layers", 0),
        "hidden_size_per_layer_input": of_file(header, "embedding_length_per_layer_input", 0),
        "vocab_size_per_layer_input": of_file(header, "vocab_size")
        or header.metadata.get("tokenizer.ggml.tokens"),
        "intermediate_size": min(sizes),
        "use_double_wide_mlp": len(set(sizes)) > 1,
        "enable_moe_block": bool(experts),
        "num_experts": experts or None,
        "top_k_experts": of_file(header, "expert_used_count"),
        "moe_intermediate_size": of_file(header, "expert_feed_forward_length"),
        "rope_parameters": {"full_attention": whole, "sliding_attention": _local_rope(header)},
    }


def _rotated_share(header: Header) -> float:
    """Return the share of a head that is rotated: frequencies of others are divided by a huge
    number."""
    for tensor in header.tensors:
        if tensor.name == "rope_freqs.weight" and tensor.dtype == "F32":
            factors = numbers_of(tensor)
            return float((factors < HUGE).mean())
    return 1.0


KNOWN = {
    "gemma2": Architecture("gemma2", {**SETTINGS, **THETA}, GEMMA, computed=_scale, changes=ONE_MORE),
    "gemma3": Architecture("gemma3_text", SETTINGS, GEMMA, computed=_gemma3, changes=ONE_MORE),
    "gemma4": Architecture(
        "gemma4_text", SETTINGS, GEMMA4, GEMMA4_WHOLE, computed=_gemma4, experts="experts"
    ),
}
