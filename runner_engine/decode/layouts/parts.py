"""The names of a layer's parts: a new way of putting them together is a line in one of these
tables.

What the parts compute is found by trials of them (norms.py, functions.py, attention.py), not by
names of families.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn


class NotFusable(Exception):
    """The model has other parts than those that C knows."""


@dataclass(frozen=True)
class LayerNames:
    """The norms of a layer by their places; without one before its MLP, that reads what attention
    reads."""

    before_attention: str = ""
    after_attention: str = ""
    before_mlp: str = ""
    after_mlp: str = ""
    is_parallel: bool = False

    @property
    def norms(self) -> frozenset[str]:
        """The names of all of them."""
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
    LayerNames("ln_1", "", "ln_2"),
)
PARALLEL = ("use_parallel_residual",)  # attributes of a layer whose MLP does not wait for attention
ATTENTIONS = ("self_attn", "attention", "attn")
MLPS = ("mlp", "feed_forward", "block_sparse_moe", "moe", "shared_mlp")


@dataclass(frozen=True)
class ProjectionNames:
    """The linear layers around attention or in an MLP: what comes in, side by side, and what goes
    out."""

    into: tuple[str, ...]
    out: str

    @property
    def all(self) -> frozenset[str]:
        """The names of all of them."""
        return frozenset((*self.into, self.out))


@dataclass(frozen=True)
class LatentNames:
    """The parts of attention whose heads come out of latents: what comes in, and what is made of
    it."""

    # the latent of queries, or queries; the latent of keys and values with what keys share
    into: tuple[str, str]
    pair_norm: str
    to_pairs: str
    out: str
    query_norm: str = ""
    to_queries: str = ""

    @property
    def all(self) -> frozenset[str]:
        """The names of all of them."""
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
HEAD_NORMS = (("q_norm", "k_norm"), ("q_layernorm", "k_layernorm"), ("query_layernorm", "key_layernorm"))
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
)
BODIES = ("model", "transformer", "backbone", "gpt_neox")  # of a whole model, beside its head
# of tokens; what their places add
EMBEDDINGS, PLACES = (("embed_tokens", "wte", "embeddings", "embed_in"), "wpe")
# attributes of a layer: of what it adds
RESIDUAL_SCALES = ("residual_multiplier", "residual_scale")
LISTS, ROTARY = ("layers", "h"), ("rotary_emb", "pos_emb")


def child_of(module: Any, names: Iterable[str]) -> tuple[str, Any]:
    """Return the first of these parts that a module has, with its name; NotFusable without one."""
    for name in names:
        if isinstance(child := getattr(module, name, None), nn.Module):
            return name, child
    raise NotFusable(f"its {type(module).__name__} has no {' or '.join(names)}")


def names_of_parts(module: nn.Module) -> set[str]:
    """Return the names of a module's parts that compute something."""
    return {
        name for name, child in module.named_children() if not isinstance(child, nn.Dropout | nn.Identity)
    }


def sizes_of(layer: Any) -> tuple[int, int]:
    """Return how many outputs and inputs a linear layer has; GPT-2's have other names for them."""
    names = ("nf", "nx") if hasattr(layer, "nf") else ("out_features", "in_features")
    return int(getattr(layer, names[0])), int(getattr(layer, names[1]))


def projections_of(module: Any, choices: Iterable[ProjectionNames], others: set[str]) -> ProjectionNames:
    """Return the names of a module's linear layers; NotFusable if it has parts beside these and
    `others`."""
    parts = names_of_parts(module) - others
    for names in choices:
        if parts == names.all:
            return names
    raise NotFusable(f"its {type(module).__name__} has other parts: {', '.join(sorted(parts))}")
