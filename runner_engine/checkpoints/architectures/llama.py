"""Maps .gguf files of Llama and similar models.

llama.cpp's converter interleaves the rotary pairs of each head in these files.
"""

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
    read_architecture_setting,
    read_head_dim,
)
from runner_engine.checkpoints.architectures.rope import read_rope_parameters

if TYPE_CHECKING:
    from runner_engine.checkpoints.gguf_header import GgufHeader

MULTIPLIERS = {
    "attention.scale": "attention_multiplier",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
}


def _read_llama_rope_scaling(header: GgufHeader) -> dict[str, Any]:
    """Return the rope scaling of the file, if any."""
    rope = read_rope_parameters(
        header, read_architecture_setting(header, "rope.dimension_count") or read_head_dim(header)
    )
    return {} if rope["rope_type"] == "default" else {"rope_parameters": rope}


LLAMA = Architecture(
    "llama",
    {**RMS, **VOCABULARY, **THETA, "rope.dimension_count": "head_dim"},
    computed=_read_llama_rope_scaling,
    changes=PAIRED,
    is_read_by_transformers=True,
)


def _build_rope_settings(header: GgufHeader) -> dict[str, Any]:
    return {"rope_parameters": read_rope_parameters(header, read_head_dim(header))}


def _build_granite_config(header: GgufHeader) -> dict[str, Any]:
    """Return a Granite config. The attention multiplier defaults to 1/sqrt(head size)."""
    if read_architecture_setting(header, "attention.scale") is not None:
        return _build_rope_settings(header)
    width = read_architecture_setting(header, "embedding_length", 1) // max(
        1, read_architecture_setting(header, "attention.head_count", 1)
    )
    return {"attention_multiplier": width**-0.5} | _build_rope_settings(header)


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
    computed=lambda header: (
        {"sliding_window": None, "head_dim": read_head_dim(header)} | _build_rope_settings(header)
    ),
    changes=PAIRED,
    experts="mlp.experts",
)
GRANITE = Architecture(
    "granite", {**RMS, **VOCABULARY, **MULTIPLIERS}, computed=_build_granite_config, changes=PAIRED
)
GRANITE_MOE_LAYER = {**ATTENTION, **NORMS, "ffn_gate_inp": "block_sparse_moe.router"}
GRANITE_MOE = Architecture(
    "granitemoe",
    {**GRANITE.settings, "expert_count": "num_local_experts", "expert_used_count": "num_experts_per_tok"},
    layer=GRANITE_MOE_LAYER,
    computed=_build_granite_config,
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
    computed=_build_granite_config,
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
