"""Describes a whole model for the C kernels: embedding, layers, lm_head and scaling factors."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from runner_base import is_out_of_memory_error, to_one_line
from runner_engine.attention import register_attention
from runner_engine.decode.layouts.attention import IGNORED, infer_attention_layout
from runner_engine.decode.layouts.attention_capture import POSITIONS
from runner_engine.decode.layouts.attention_experts import (
    has_attention_experts,
    infer_expert_attention_layout,
)
from runner_engine.decode.layouts.attention_layout import AttentionLayout
from runner_engine.decode.layouts.head_shapes import has_own_head_shape, infer_head_shape_attention_layout
from runner_engine.decode.layouts.joined_layers import JoinedLayer, join_blocks_into_layers
from runner_engine.decode.layouts.latents import infer_latent_attention_layout, match_latent_attention_names
from runner_engine.decode.layouts.mixtures import MixtureAndMlp, MixtureLayout, MixtureReader
from runner_engine.decode.layouts.mlps import InlineMlp, MlpLayout, infer_mlp_layout
from runner_engine.decode.layouts.norms import NormLayout, infer_norm_layout
from runner_engine.decode.layouts.parts import (
    ATTENTIONS,
    BODIES,
    EMBEDDINGS,
    FINAL_NORMS,
    FUNCTIONS,
    INNER_BODIES,
    LAYERS,
    LISTS,
    MLPS,
    PARALLEL,
    PLACEHOLDERS,
    POSITION_EMBEDDINGS,
    RESIDUAL_SCALES,
    ROTARY,
    WITHOUT_MLP,
    LayerNames,
    NotFusable,
    computing_child_names,
    find_first_child,
)
from runner_engine.decode.layouts.query_scales import QueryScale
from runner_engine.decode.layouts.rotations import RopeTable, Rotation
from runner_engine.decode.layouts.streams import (
    INPUTS_OF_LAYER,
    INPUTS_OF_MODEL,
    STREAMS_OF_LAYER,
    STREAMS_OF_MODEL,
    InputLayout,
    ModelInputsLayout,
    ModelStreamsLayout,
    StreamLayout,
    infer_input_layout,
    infer_model_inputs_layout,
    infer_stream_layout,
    read_altup_streams_layout,
)
from runner_engine.kernels.c_interface import ROPE_TABLES
from runner_engine.kv_cache import KvCacheSpec
from runner_engine.recurrent import MIXERS, MixerParts, create_mixer


@dataclass(frozen=True)
class ParallelMixer:
    """A recurrent mixer that runs parallel to attention, with the scales of mixer and attention."""

    mixer: MixerParts
    heads: float  # queries, keys and values
    attention: float  # what comes out of attention
    mixed: float  # and of the mixer


@dataclass(frozen=True)
class LayerLayout:
    """A layer: attention or a recurrent mixer, an optional MLP, and the surrounding norms."""

    attention: AttentionLayout | None
    mixer: MixerParts | None  # exactly one of these two
    mixer_norms: tuple[NormLayout | None, ...]  # within the mixer
    beside: ParallelMixer | None  # what carries a state beside attention
    mlp: MlpLayout | None
    mixture: MixtureLayout | None  # experts in the place of an MLP, where C knows their parts
    apart: Any  # the module of what is no MLP that C knows, a mixture or something else; else None
    norms: tuple[NormLayout | None, ...]  # before and after attention, before and after the MLP
    head_norms: tuple[NormLayout, NormLayout] | None
    is_parallel: bool
    rope: int  # which table rotates its heads; -1: none does
    blocks: int  # of the model's own layers that it is made of
    output_scale: float = 1.0  # what the whole hidden state is multiplied by in the end
    input: InputLayout | None = None  # read beside the hidden state
    streams: StreamLayout | None = None


@dataclass(frozen=True)
class OtherTokens:
    """Tokens that stand for images and sounds. A model embeds these in other ways than text."""

    ids: frozenset[int]
    first: int | None  # from this id on, all tokens are such

    @classmethod
    def find(cls, outer_body: Any) -> OtherTokens:
        """Find these tokens of a model that has a decoder inside another body."""
        if not hasattr(outer_body, "get_placeholder_mask"):
            return cls(frozenset(), None)
        ids = (getattr(outer_body.config, name, None) for name in PLACEHOLDERS)
        offsets = [
            int(child.vocab_offset) for child in outer_body.children() if hasattr(child, "vocab_offset")
        ]
        return cls(frozenset(int(one) for one in ids if one is not None), min(offsets, default=None))

    def contain_any(self, token_ids: list[int]) -> bool:
        is_beyond = self.first is not None and max(token_ids) >= self.first
        return is_beyond or not self.ids.isdisjoint(token_ids)


@dataclass(frozen=True)
class ModelLayout:
    """Embedding, layers, final norm and lm_head of a decoder, in the order of the forward pass."""

    body: Any  # the module that has its layers
    name_of_layers: str
    embedding: Any
    embedding_scale: float
    positions: torch.Tensor | None  # [positions, hidden]: added to a token by its position
    layers: list[LayerLayout]
    residual_scale: float  # of what each layer adds
    norm: NormLayout
    head: Any
    logit_scale: float
    logit_cap: float  # 0: none
    tables: list[RopeTable]
    rotations: list[Rotation | None]  # by each table
    inputs: ModelInputsLayout | None
    streams: ModelStreamsLayout | None
    other_tokens: OtherTokens
    query_scale: QueryScale | None  # that of all layers which scale queries


def describe_model(model: Any, kv_spec: KvCacheSpec) -> ModelLayout:
    """Describe a model for the C kernels. Raises NotFusable for an unsupported layer."""
    register_attention()
    try:
        return _infer_model_layout(model, kv_spec)
    except NotFusable:
        raise
    except Exception as error:  # of the family's own code, which is called part by part
        if is_out_of_memory_error(error):
            raise
        raise NotFusable(
            f"its parts are others: {type(error).__name__}: {to_one_line(error, limit=120)}"
        ) from error


def _infer_model_layout(model: Any, kv_spec: KvCacheSpec) -> ModelLayout:
    (_, outer), settings = find_first_child(model, BODIES), model.config.get_text_config()
    body = next((getattr(outer, name) for name in INNER_BODIES if hasattr(outer, name)), outer)
    final, norm = find_first_child(body, FINAL_NORMS)
    (of_embedding, embedding), (of_layers, blocks) = (
        find_first_child(body, EMBEDDINGS),
        find_first_child(body, LISTS),
    )
    if kv_spec.dtype is not torch.float32 and any(
        getattr(block, "residual_in_fp32", False) for block in blocks
    ):
        raise NotFusable("the residual stream is in float32")
    body_layers = join_blocks_into_layers(blocks)
    of_places = next((name for name in POSITION_EMBEDDINGS if hasattr(body, name)), "")
    of_rotary = next((name for name in ROTARY if hasattr(body, name)), ROTARY[0])
    hidden, kinds = settings.hidden_size, getattr(settings, "layer_types", None)
    like = torch.zeros(1, dtype=kv_spec.dtype)
    inputs, streams = (
        infer_model_inputs_layout(body, like.expand(1, hidden)),
        read_altup_streams_layout(body),
    )
    known = {of_embedding, of_layers, of_rotary, final, of_places}
    known |= INPUTS_OF_MODEL if inputs else set()
    known |= STREAMS_OF_MODEL if streams else set()
    if others := computing_child_names(body) - known:
        raise NotFusable(f"it has other parts: {', '.join(sorted(others))}")
    tables, of_kind = _find_rope_tables(getattr(body, of_rotary, None), kinds)
    rows = torch.randn(
        1, len(POSITIONS), hidden, generator=torch.Generator().manual_seed(0), dtype=torch.float32
    ).to(like)
    scales = {_get_residual_scale(layer) for layer in body_layers}
    if len(scales) != 1:
        raise NotFusable("its layers differ")
    layers, mixtures = [], MixtureReader()
    for number, layer in enumerate(body_layers):
        table = of_kind[kinds[number]] if kinds and of_kind else 0
        layers.append(_infer_layer_layout(model, layer, kv_spec, rows, table, tables, mixtures))
    attending = [layer.attention for layer in layers if layer.attention is not None]
    query_scales = {attention.query_scale for attention in attending} - {None}
    if len(query_scales) > 1:
        raise NotFusable("the layers use different query scales")
    return ModelLayout(
        body,
        of_layers,
        embedding,
        _compute_embedding_scale(body, embedding, kv_spec.dtype),
        _get_position_embeddings(getattr(body, of_places)) if of_places else None,
        layers,
        scales.pop(),
        infer_norm_layout(norm, hidden, like),
        model.get_output_embeddings(),
        _find_logit_scale(model, settings),
        float(getattr(settings, "final_logit_softcapping", None) or 0),
        tables,
        _find_rotation_of_each_table(layers, len(tables)),
        inputs,
        streams,
        OtherTokens.find(outer),
        next(iter(query_scales), None),
    )


def _find_rotation_of_each_table(layers: Iterable[LayerLayout], num_tables: int) -> list[Rotation | None]:
    """Return how each RoPE table rotates heads, or None for a table that no layer uses.

    Raises NotFusable if layers with one table rotate differently, or if tables pair elements differently.
    """
    found: list[Rotation | None] = []
    for table in range(num_tables):
        used = {layer.attention.rotation for layer in layers if layer.attention and layer.rope == table}
        if len(used) > 1:
            raise NotFusable("the layers use different RoPE rotations")
        found.append(used.pop() if used else None)
    if len({(rotation.points, rotation.of_table) for rotation in found if rotation}) > 1:
        raise NotFusable("the layers use different RoPE rotations")
    return found


def _find_rope_tables(rotary: Any, layer_types: list[str] | None) -> tuple[list[RopeTable], dict[str, int]]:
    """Return a model's RoPE tables.

    If layer types use different tables, also returns the table index by layer type.
    """
    if rotary is None:
        return [], {}
    if "layer_type" not in inspect.signature(type(rotary).forward).parameters or not layer_types:
        return [RopeTable(rotary, None)], {}
    names = list(dict.fromkeys(layer_types))
    if len(names) > ROPE_TABLES:
        raise NotFusable(f"its layers have {len(names)} rotary tables")
    return [RopeTable(rotary, name) for name in names], {name: number for number, name in enumerate(names)}


def _infer_layer_layout(
    model: Any,
    layer: Any,
    kv_spec: KvCacheSpec,
    hidden_states: torch.Tensor,
    table_index: int,
    rope_tables: list[RopeTable],
    mixture_reader: MixtureReader,
) -> LayerLayout:
    of_mixer, mixer = _find_recurrent_mixer(layer)
    beside = (
        _get_parallel_mixer_layout(layer, mixer)
        if mixer and set(ATTENTIONS) & (computing_child_names(layer) - {of_mixer})
        else None
    )
    mixer = None if beside else mixer
    of_attention, attention = (of_mixer, None) if mixer else find_first_child(layer, ATTENTIONS)
    mlp = _find_feed_forward(layer)
    of_mlp = computing_child_names(mlp) | {*FUNCTIONS} if isinstance(mlp, InlineMlp) else {*MLPS}
    others = computing_child_names(layer) - {of_mixer, of_attention} - of_mlp - IGNORED
    hidden, like = hidden_states.shape[-1], hidden_states[0, :1]
    layer_input, streams = infer_input_layout(layer, like), infer_stream_layout(layer, like)
    others -= INPUTS_OF_LAYER if layer_input else set()
    others -= STREAMS_OF_LAYER if streams else set()
    names = _match_norm_names(layer, others) if mlp else WITHOUT_MLP
    found = None
    if attention is not None:
        read = infer_attention_layout
        if match_latent_attention_names(attention) is not None:
            read = infer_latent_attention_layout
        elif has_own_head_shape(attention):
            read = infer_head_shape_attention_layout
        elif has_attention_experts(attention):
            read = infer_expert_attention_layout
        found = read(
            model, attention, kv_spec, hidden_states, rope_tables[table_index] if rope_tables else None
        )
    head_norms = None
    if found is not None and found.norms is not None:
        counts = (kv_spec.kv_heads * kv_spec.group, kv_spec.kv_heads) if found.norms_all_heads else (1, 1)
        queries, keys = (
            infer_norm_layout(norm, count * kv_spec.dim, like)
            for norm, count in zip(found.norms, counts, strict=True)
        )
        head_norms = queries, keys
    places = names.before_attention, names.after_attention, names.before_mlp, names.after_mlp
    norms = tuple(infer_norm_layout(getattr(layer, name), hidden, like) if name else None for name in places)
    is_parallel = names.is_parallel or any(getattr(layer, name, False) for name in PARALLEL)
    rope = -1 if found is None or found.rotation is None else table_index
    of_c = infer_mlp_layout(mlp, hidden_states) if mlp else None
    mixture = (
        mixture_reader.describe(mlp, hidden_states) if mlp and of_c is None and not is_parallel else None
    )
    apart, blocks = mlp if of_c is None else None, getattr(layer, "blocks", 1)
    scales = {of_c.gate_scale, of_c.scale} if of_c else set()
    if not beside and (scales | {1.0 if found is None else found.key_scale}) != {1.0}:
        raise NotFusable(
            "the C kernels support scaled keys and scaled MLPs only in layers with a parallel mixer"
        )
    if beside and (of_c is None or getattr(layer, "residual_multiplier", 1.0) != 1):
        raise NotFusable("a layer has a mixer parallel to attention, but no supported MLP")
    products = None if mixer is None else mixer.products
    mixer_norms = (
        ()
        if products is None
        else tuple(
            None if norm is None else infer_norm_layout(norm, width, like)
            for norm, width in zip(products.norms, (products.rank, *[products.scan.size] * 2), strict=True)
        )
    )
    return LayerLayout(
        found,
        mixer,
        mixer_norms,
        beside,
        of_c,
        mixture,
        apart,
        norms,
        head_norms,
        is_parallel,
        rope,
        blocks,
        float(getattr(layer, "layer_scalar", 1.0)),
        layer_input,
        streams,
    )


def _find_feed_forward(layer: nn.Module) -> Any:
    """Return a layer's MLP, its mixture of experts, or both combined in one module.

    Returns None for a layer without one.
    """
    if isinstance(layer, JoinedLayer) and not layer.has_mlp:
        return None
    if inline := InlineMlp.find(layer):
        return inline
    name, mlp = find_first_child(layer, MLPS)
    beside = computing_child_names(layer) & set(MLPS) - {name}
    return MixtureAndMlp(mlp, *(getattr(layer, other) for other in beside)) if beside else mlp


def _get_parallel_mixer_layout(layer: Any, mixer: MixerParts) -> ParallelMixer:
    """Describe a recurrent mixer that runs parallel to attention.

    Both read the same input, and their outputs are added.
    """
    names = ("attention_in_multiplier", "attn_out_multiplier", "ssm_out_multiplier")
    return ParallelMixer(mixer, *(float(getattr(layer, name, 1.0)) for name in names))


def _find_recurrent_mixer(layer: nn.Module) -> tuple[str, MixerParts | None]:
    """Return the name and the description of the recurrent mixer in a layer.

    Raises NotFusable if the C kernels do not support it.
    """
    for name, child in layer.named_children():
        if type(child).__name__ in MIXERS:
            mixer = create_mixer(child)
            parts = None if mixer is None else mixer.mixer_parts
            if parts is None or not parts.is_supported:
                raise NotFusable(f"the C kernels do not support {type(child).__name__}")
            return name, parts
    return "", None


def _match_norm_names(layer: nn.Module, norm_names: set[str]) -> LayerNames:
    for names in LAYERS:
        if norm_names == names.norm_names:
            return names
    raise NotFusable(f"{type(layer).__name__} has unsupported norms: {', '.join(sorted(norm_names))}")


def _get_residual_scale(layer: Any) -> float:
    return next((float(getattr(layer, name)) for name in RESIDUAL_SCALES if hasattr(layer, name)), 1.0)


def _get_position_embeddings(module: Any) -> torch.Tensor:
    """Return the table of learned position embeddings, from position 0 on."""
    weight: torch.Tensor = module.weight[getattr(module, "offset", 0) :]
    return weight


def _compute_embedding_scale(body: Any, embedding: Any, dtype: torch.dtype) -> float:
    """Return the factor that scales embeddings before the first layer, rounded to the model's dtype."""
    own = getattr(embedding, "embed_scale", 1.0)
    own = torch.as_tensor(own).to(dtype).item()
    return float(own) * float(getattr(body, "embedding_multiplier", 1.0))


def _find_logit_scale(model: Any, text_config: Any) -> float:
    of_body = float(getattr(getattr(model, "model", None), "lm_head_multiplier", 1.0))
    return (
        of_body
        * float(getattr(model, "logit_scale", 1.0))
        / float(getattr(text_config, "logits_scaling", 1.0))
    )
