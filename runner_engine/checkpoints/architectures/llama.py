"""Llama and what is built like it: the converter puts the rotary pairs of a head side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner_engine.checkpoints.architectures.base import (
    ATTENTION,
    HEAD,
    LAYER,
    NORMS,
    PAIRED,
    RMS,
    THETA,
    VOCABULARY,
    Architecture,
    head_dim_of,
    of_file,
)
from runner_engine.checkpoints.architectures.rope import rope_of

if TYPE_CHECKING:
    from runner_engine.checkpoints.gguf_header import Header

MULTIPLIERS = {
    "attention.scale": "attention_multiplier",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
}


def _scaled_llama(header: Header) -> dict[str, Any]:
    """Return the scaling of the rotary embedding, if there is one; all of a head is rotated."""
    rope = rope_of(header, of_file(header, "rope.dimension_count") or head_dim_of(header))
    return {} if rope["rope_type"] == "default" else {"rope_parameters": rope}


LLAMA = Architecture(
    "llama",
    {**RMS, **VOCABULARY, **THETA, "rope.dimension_count": "head_dim"},
    computed=_scaled_llama,
    changes=PAIRED,
    is_read_by_transformers=True,
)


def _rope(header: Header) -> dict[str, Any]:
    return {"rope_parameters": rope_of(header, head_dim_of(header))}


def _granite(header: Header) -> dict[str, Any]:
    """Return the multiplier of attention that any model has, if the file names no other."""
    if of_file(header, "attention.scale") is not None:
        return _rope(header)
    width = of_file(header, "embedding_length", 1) // max(1, of_file(header, "attention.head_count", 1))
    return {"attention_multiplier": width**-0.5} | _rope(header)


MIXTRAL = Architecture(
    "mixtral",
    {
        **RMS,
        **VOCABULARY,
        **HEAD,
        "expert_count": "num_local_experts",
        "expert_used_count": "num_experts_per_tok",
    },
    layer={**LAYER, "ffn_gate_inp": "mlp.gate"},
    computed=lambda header: {"sliding_window": None, "head_dim": head_dim_of(header)} | _rope(header),
    changes=PAIRED,
    experts="mlp.experts",
)
GRANITE = Architecture("granite", {**RMS, **VOCABULARY, **MULTIPLIERS}, computed=_granite, changes=PAIRED)
GRANITE_MOE_LAYER = {**ATTENTION, **NORMS, "ffn_gate_inp": "block_sparse_moe.router"}
GRANITE_MOE = Architecture(
    "granitemoe",
    {**GRANITE.settings, "expert_count": "num_local_experts", "expert_used_count": "num_experts_per_tok"},
    layer=GRANITE_MOE_LAYER,
    computed=_granite,
    changes=PAIRED,
    experts="block_sparse_moe.experts",
)
SHARED_MLP = {"ffn_down_shexp": "shared_mlp.output_linear"}
SHARED_INPUT: dict[tuple[str, ...], str] = {
    ("ffn_gate_shexp.weight", "ffn_up_shexp.weight"): "shared_mlp.input_linear.weight"
}
GRANITE_MOE_SHARED = Architecture(
    "granitemoeshared",
    {**GRANITE_MOE.settings, "expert_shared_feed_forward_length": "shared_intermediate_size"},
    layer={**GRANITE_MOE_LAYER, **SHARED_MLP},
    computed=_granite,
    changes=PAIRED,
    joined=SHARED_INPUT,
    experts="block_sparse_moe.experts",
)

KNOWN = {
    "llama": LLAMA,
    "llama with experts": MIXTRAL,
    "granite": GRANITE,
    "granitemoe": GRANITE_MOE,
    "granitemoe with shared experts": GRANITE_MOE_SHARED,
}
