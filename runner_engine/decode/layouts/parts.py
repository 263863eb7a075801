"""Lists the names of submodules in the layers of all supported model families.

A new combination of names takes one table line.

The computation of each part is found by trials (norms.py, activations.py, attention.py),
not by family names.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn


class NotFusable(Exception):
    """Raised for a model that the fused forward pass in C does not support."""


@dataclass(frozen=True)
class LayerNames:
    """Names of a layer's norm modules, by their position in the layer.

    Without a norm before the MLP, the MLP reads attention's input.
    """

    before_attention: str = ""
    after_attention: str = ""
    before_mlp: str = ""
    after_mlp: str = ""
    is_parallel: bool = False

    @property
    def norm_names(self) -> frozenset[str]:
        return frozenset(
            (self.before_attention, self.after_attention, self.before_mlp, self.after_mlp)
        ) - frozenset(("",))


WITHOUT_MLP = LayerNames("input_layernorm")
LAYERS = (
    LayerNames("input_layernorm", "", "post_attention_layernorm"),
    LayerNames("input_layernorm", "", "pre_feedforward_layernorm"),
    LayerNames("input_layernorm", "", "pre_ff_layernorm"),
    LayerNames("operator_norm", "", "ffn_norm"),
    LayerNames("attention_layernorm", "", "feedforward_layernorm"),
    LayerNames(
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    ),
    LayerNames(
        "input_layernorm", "post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm"
    ),
    LayerNames("", "post_attention_layernorm", "", "post_feedforward_layernorm"),
    LayerNames("input_layernorm", is_parallel=True),
    LayerNames("ln_attn", "", "ln_mlp", is_parallel=True),
    LayerNames("ln_1", "", "ln_2"),
    LayerNames("self_attn_layer_norm", "", "final_layer_norm"),
)
PARALLEL = ("use_parallel_residual",)  # attributes of a layer whose MLP does not wait for attention
ATTENTIONS = ("self_attn", "attention", "attn", "self_attention")
MLPS = ("mlp", "feed_forward", "block_sparse_moe", "moe", "shared_mlp")


@dataclass(frozen=True)
class ProjectionNames:
    """Names of the linear layers in attention or an MLP: parallel input layers and one output layer."""

    into: tuple[str, ...]
    out: str

    @property
    def all_names(self) -> frozenset[str]:
        return frozenset((*self.into, self.out))


@dataclass(frozen=True)
class LatentNames:
    """Names of the submodules of multi-head latent attention: input projections, norms and up-projections."""

    # the latent of queries, or queries; the latent of keys and values with what keys share
    into: tuple[str, str]
    pair_norm: str
    to_pairs: str
    out: str
    query_norm: str = ""
    to_queries: str = ""

    @property
    def all_names(self) -> frozenset[str]:
        names = (*self.into, self.pair_norm, self.to_pairs, self.out, self.query_norm, self.to_queries)
        return frozenset(names) - {""}


OF_PAIRS = ("kv_a_layernorm", "kv_b_proj", "o_proj")
LATENTS = (
    LatentNames(("q_a_proj", "kv_a_proj_with_mqa"), *OF_PAIRS, "q_a_layernorm", "q_b_proj"),
    LatentNames(("q_proj", "kv_a_proj_with_mqa"), *OF_PAIRS),
)
SEPARATE = ("q_proj", "k_proj", "v_proj")
OF_ATTENTION = (
    ProjectionNames(SEPARATE, "o_proj"),
    ProjectionNames(SEPARATE, "dense"),
    ProjectionNames(SEPARATE, "out_proj"),
    ProjectionNames(("qkv_proj",), "o_proj"),
    ProjectionNames(("c_attn",), "c_proj"),
    ProjectionNames(("query_key_value",), "dense"),
)
OF_MLP = (
    ProjectionNames(("gate_proj", "up_proj"), "down_proj"),
    ProjectionNames(("gate_up_proj",), "down_proj"),
    ProjectionNames(("up_proj",), "down_proj"),
    ProjectionNames(("w1", "w3"), "w2"),
    ProjectionNames(("input_linear",), "output_linear"),
    ProjectionNames(("fc1",), "fc2"),
    ProjectionNames(("c_fc",), "c_proj"),
    ProjectionNames(("dense_h_to_4h",), "dense_4h_to_h"),
)
HEAD_NORMS = (
    ("q_norm", "k_norm"),
    ("q_layernorm", "k_layernorm"),
    ("query_layernorm", "key_layernorm"),
    ("qk_norm", "qk_norm"),
)
SCALES_OF_MLP = ("gate_multiplier", "down_multiplier")
FUNCTIONS = ("act_fn", "activation_fn", "act", "activation")
FINAL_NORMS = (
    "norm",
    "final_layernorm",
    "final_norm",
    "final_layer_norm",
    "embedding_norm",
    "ln_f",
    "norm_f",
    "layer_norm",
)
# of a whole model, next to its head; a module in the body that has the layers
BODIES, INNER_BODIES = (
    ("model", "transformer", "backbone", "gpt_neox", "biogpt"),
    ("language_model", "decoder"),
)
# of tokens; what their positions add
EMBEDDINGS = ("embed_tokens", "wte", "embeddings", "embed_in", "word_embeddings")
POSITION_EMBEDDINGS = ("wpe", "embed_positions")
# attributes of a config: tokens that stand for an image, a video or a sound
PLACEHOLDERS = ("image_token_id", "video_token_id", "audio_token_id")
# attributes of a layer: of what it adds
RESIDUAL_SCALES = ("residual_multiplier", "residual_scale")
LISTS, ROTARY = ("layers", "h"), ("rotary_emb", "pos_emb")


def find_first_child(module: Any, names: Iterable[str]) -> tuple[str, Any]:
    """Return the name and module of the first listed child that a module has.

    Raises NotFusable if none of the children exists.
    """
    for name in names:
        if isinstance(child := getattr(module, name, None), nn.Module):
            return name, child
    raise NotFusable(f"{type(module).__name__} has no submodule {' or '.join(names)}")


def computing_child_names(module: nn.Module) -> set[str]:
    """Return the names of a module's children, except dropout and identity modules."""
    return {
        name for name, child in module.named_children() if not isinstance(child, nn.Dropout | nn.Identity)
    }


def get_linear_sizes(layer: Any) -> tuple[int, int]:
    names = ("nf", "nx") if hasattr(layer, "nf") else ("out_features", "in_features")
    return int(getattr(layer, names[0])), int(getattr(layer, names[1]))


def match_known_projection_names(
    module: Any, known_projections: Iterable[ProjectionNames], ignored_names: set[str]
) -> ProjectionNames:
    """Return the known projection names that match a module's linear layers.

    Raises NotFusable if the module has other children.
    """
    parts = computing_child_names(module) - ignored_names
    for names in known_projections:
        if parts == names.all_names:
            return names
    raise NotFusable(f"{type(module).__name__} has unsupported submodules: {', '.join(sorted(parts))}")
