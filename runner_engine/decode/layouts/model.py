"""The layout of a whole model: embedding, layers, head, and the numbers that scale what goes
between them."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from runner_base import is_memory_error, one_line
from runner_engine.attention import register
from runner_engine.decode.layouts.attention import IGNORED, attention_of
from runner_engine.decode.layouts.attention_layout import AttentionLayout
from runner_engine.decode.layouts.handed_over import POSITIONS
from runner_engine.decode.layouts.joined import JoinedLayer, joined
from runner_engine.decode.layouts.latents import latent_attention_of, latent_names_of
from runner_engine.decode.layouts.mixtures import MixtureAndMlp, MixtureLayout, MixtureReader
from runner_engine.decode.layouts.mlps import MlpLayout, mlp_of
from runner_engine.decode.layouts.norms import NormLayout, norm_of
from runner_engine.decode.layouts.parts import (
    ATTENTIONS,
    BODIES,
    EMBEDDINGS,
    FINAL_NORMS,
    LAYERS,
    LISTS,
    MLPS,
    PARALLEL,
    PLACES,
    RESIDUAL_SCALES,
    ROTARY,
    WITHOUT_MLP,
    LayerNames,
    NotFusable,
    child_of,
    names_of_parts,
)
from runner_engine.decode.layouts.query_scales import QueryScale
from runner_engine.decode.layouts.rotations import RopeTable, Rotation
from runner_engine.kernels.shared_numbers import ROPE_TABLES
from runner_engine.kv_cache import Heads
from runner_engine.recurrent import MIXERS, CallParts, mixer_of


@dataclass(frozen=True)
class Beside:
    """What carries a state beside attention, and what numbers around both are multiplied by."""

    mixer: CallParts
    heads: float  # queries, keys and values
    attention: float  # what comes out of attention
    mixed: float  # and of the mixer


@dataclass(frozen=True)
class LayerLayout:
    """A layer: attention or what carries a state, an MLP or none, and the norms around them."""

    attention: AttentionLayout | None
    mixer: CallParts | None  # exactly one of these two
    beside: Beside | None  # what carries a state beside attention
    mlp: MlpLayout | None
    mixture: MixtureLayout | None  # experts in the place of an MLP, where C knows their parts
    apart: Any  # the module of what is no MLP that C knows, a mixture or something else; else None
    norms: tuple[NormLayout | None, ...]  # before and after attention, before and after the MLP
    head_norms: tuple[NormLayout, NormLayout] | None
    is_parallel: bool
    rope: int  # which table rotates its heads; -1: none does
    blocks: int  # of the model's own layers that it is made of


@dataclass(frozen=True)
class ModelLayout:
    """A decoder in the order of its forward pass."""

    body: Any  # the module that has its layers
    name_of_layers: str
    embedding: Any
    embedding_scale: float
    positions: Any  # the table of what is added to a token by its position; None: there is none
    layers: list[LayerLayout]
    residual_scale: float  # of what each layer adds
    norm: NormLayout
    head: Any
    logit_scale: float
    logit_cap: float  # 0: none
    tables: list[RopeTable]
    rotation: Rotation | None  # that of all layers which rotate
    query_scale: QueryScale | None  # that of all layers


def describe(model: Any, heads: Heads) -> ModelLayout:
    """Return the layout of a model; NotFusable if it has parts that C does not know."""
    register()
    try:
        return _described(model, heads)
    except NotFusable:
        raise
    except Exception as error:  # of the family's own code, which is called part by part
        if is_memory_error(error):
            raise
        raise NotFusable(
            f"its parts are others: {type(error).__name__}: {one_line(error, limit=120)}"
        ) from error


def _described(model: Any, heads: Heads) -> ModelLayout:
    (_, body), settings = child_of(model, BODIES), model.config.get_text_config()
    body = getattr(body, "language_model", body)
    final, norm = child_of(body, FINAL_NORMS)
    (of_embedding, embedding), (of_layers, blocks) = (child_of(body, EMBEDDINGS), child_of(body, LISTS))
    if heads.dtype is not torch.float32 and any(
        getattr(block, "residual_in_fp32", False) for block in blocks
    ):
        raise NotFusable("what its layers add up is in float32")
    body_layers = joined(blocks)
    places = getattr(body, PLACES, None)
    of_rotary = next((name for name in ROTARY if hasattr(body, name)), ROTARY[0])
    if others := names_of_parts(body) - {of_embedding, of_layers, of_rotary, final, PLACES}:
        raise NotFusable(f"it has other parts: {', '.join(sorted(others))}")
    hidden, kinds = settings.hidden_size, getattr(settings, "layer_types", None)
    like = torch.zeros(1, dtype=heads.dtype)
    tables, of_kind = _tables(getattr(body, of_rotary, None), kinds)
    rows = torch.randn(
        1, len(POSITIONS), hidden, generator=torch.Generator().manual_seed(0), dtype=torch.float32
    ).to(like)
    scales = {_residual_scale(layer) for layer in body_layers}
    if len(scales) != 1:
        raise NotFusable("its layers differ")
    layers, mixtures = [], MixtureReader()
    for number, layer in enumerate(body_layers):
        table = of_kind[kinds[number]] if kinds and of_kind else 0
        layers.append(_layer(model, layer, heads, rows, table, tables, mixtures))
    attending = [layer.attention for layer in layers if layer.attention is not None]
    rotations = {attention.rotation for attention in attending} - {None}
    if len(rotations) > 1:
        raise NotFusable("its layers rotate in different ways")
    query_scales = {attention.query_scale for attention in attending}
    if len(query_scales) > 1:
        raise NotFusable("its layers scale queries in different ways")
    return ModelLayout(
        body,
        of_layers,
        embedding,
        _embedding_scale(body, embedding, heads.dtype),
        places,
        layers,
        scales.pop(),
        norm_of(norm, hidden, like),
        model.lm_head,
        _logit_scale(model, settings),
        float(getattr(settings, "final_logit_softcapping", None) or 0),
        tables,
        next(iter(rotations), None),
        next(iter(query_scales), None),
    )


def _tables(rotary: Any, kinds: list[str] | None) -> tuple[list[RopeTable], dict[str, int]]:
    """Return a model's rotary tables, and the table of each kind of layers where they differ."""
    if rotary is None:
        return [], {}
    if "layer_type" not in inspect.signature(type(rotary).forward).parameters or not kinds:
        return [RopeTable(rotary, None)], {}
    names = list(dict.fromkeys(kinds))
    if len(names) > ROPE_TABLES:
        raise NotFusable(f"its layers have {len(names)} rotary tables")
    return [RopeTable(rotary, name) for name in names], {name: number for number, name in enumerate(names)}


def _layer(
    model: Any,
    layer: Any,
    heads: Heads,
    rows: torch.Tensor,
    table: int,
    tables: list[RopeTable],
    mixtures: MixtureReader,
) -> LayerLayout:
    of_mixer, mixer = _mixer(layer)
    beside = (
        _beside(layer, mixer) if mixer and set(ATTENTIONS) & (names_of_parts(layer) - {of_mixer}) else None
    )
    mixer = None if beside else mixer
    of_attention, attention = (of_mixer, None) if mixer else child_of(layer, ATTENTIONS)
    mlp = _feed_forward(layer)
    others = names_of_parts(layer) - {of_mixer, of_attention, *MLPS} - IGNORED
    names = _layer_names(layer, others) if mlp else WITHOUT_MLP
    hidden, like = rows.shape[-1], rows[0, :1]
    found = None
    if attention is not None:
        read = attention_of if latent_names_of(attention) is None else latent_attention_of
        found = read(model, attention, heads, rows, tables[table] if tables else None)
    head_norms = None
    if found is not None and found.norms is not None:
        counts = (heads.kv_heads * heads.group, heads.kv_heads) if found.norms_all_heads else (1, 1)
        queries, keys = (
            norm_of(norm, count * heads.dim, like) for norm, count in zip(found.norms, counts, strict=True)
        )
        head_norms = queries, keys
    places = names.before_attention, names.after_attention, names.before_mlp, names.after_mlp
    norms = tuple(norm_of(getattr(layer, name), hidden, like) if name else None for name in places)
    is_parallel = names.is_parallel or any(getattr(layer, name, False) for name in PARALLEL)
    rope = -1 if found is None or found.rotation is None else table
    of_c = mlp_of(mlp, rows) if mlp else None
    mixture = mixtures.read(mlp, rows) if mlp and of_c is None and not is_parallel else None
    apart, blocks = mlp if of_c is None else None, getattr(layer, "blocks", 1)
    scales = {of_c.gate_scale, of_c.scale} if of_c else set()
    if not beside and (scales | {1.0 if found is None else found.key_scale}) != {1.0}:
        raise NotFusable("its keys or its MLP are scaled")
    if beside and (of_c is None or getattr(layer, "residual_multiplier", 1.0) != 1):
        raise NotFusable("it has a mixer beside attention, and no MLP that C knows")
    return LayerLayout(
        found, mixer, beside, of_c, mixture, apart, norms, head_norms, is_parallel, rope, blocks
    )


def _feed_forward(layer: nn.Module) -> Any:
    """Return a layer's MLP or mixture, or both as one; None for a layer that is known to have
    none."""
    if isinstance(layer, JoinedLayer) and not layer.has_mlp:
        return None
    name, mlp = child_of(layer, MLPS)
    beside = names_of_parts(layer) & set(MLPS) - {name}
    return MixtureAndMlp(mlp, *(getattr(layer, other) for other in beside)) if beside else mlp


def _beside(layer: Any, mixer: CallParts) -> Beside:
    """Return what carries a state beside attention: both read the same, and are added up."""
    names = ("attention_in_multiplier", "attn_out_multiplier", "ssm_out_multiplier")
    return Beside(mixer, *(float(getattr(layer, name, 1.0)) for name in names))


def _mixer(layer: nn.Module) -> tuple[str, CallParts | None]:
    """Return what carries a state in a layer, with its name; NotFusable where C does not know its
    form."""
    for name, child in layer.named_children():
        if type(child).__name__ in MIXERS:
            mixer = mixer_of(child)
            parts = None if mixer is None else mixer.call_parts
            if parts is None or not parts.is_known:
                raise NotFusable(f"its {type(child).__name__} is computed by calls of its own")
            return name, parts
    return "", None


def _layer_names(layer: nn.Module, norms: set[str]) -> LayerNames:
    for names in LAYERS:
        if norms == names.norms:
            return names
    raise NotFusable(f"its {type(layer).__name__} has other parts: {', '.join(sorted(norms))}")


def _residual_scale(layer: Any) -> float:
    """Return by what a layer multiplies what it adds."""
    return next((float(getattr(layer, name)) for name in RESIDUAL_SCALES if hasattr(layer, name)), 1.0)


def _embedding_scale(body: Any, embedding: Any, dtype: torch.dtype) -> float:
    """Return by what the rows of the embedding are multiplied before the first layer, rounded as
    the family does."""
    own = getattr(embedding, "embed_scale", 1.0)
    own = torch.as_tensor(own).to(dtype).item()
    return float(own) * float(getattr(body, "embedding_multiplier", 1.0))


def _logit_scale(model: Any, settings: Any) -> float:
    of_body = float(getattr(getattr(model, "model", None), "lm_head_multiplier", 1.0))
    return (
        of_body * float(getattr(model, "logit_scale", 1.0)) / float(getattr(settings, "logits_scaling", 1.0))
    )
