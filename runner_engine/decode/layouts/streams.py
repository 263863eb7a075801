"""Describes what layers of Gemma 3n and 4 have beside attention and an MLP: inputs of their own and streams.

Streams are several hidden states of a token beside each other (AltUp).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from runner_engine.decode.layouts.activations import identify_activation
from runner_engine.decode.layouts.norms import NormLayout, infer_norm_layout
from runner_engine.decode.layouts.parts import NotFusable, computing_child_names, get_linear_sizes
from runner_engine.decode.layouts.rotations import max_relative_error
from runner_engine.kernels.c_interface import Activation
from runner_engine.kernels.stream_structures import MAX_STREAMS
from runner_engine.matmul import is_unquantized_linear

INPUTS_OF_MODEL = {"embed_tokens_per_layer", "per_layer_model_projection", "per_layer_projection_norm"}
STREAMS_OF_MODEL = {"altup_projections", "altup_unembed_projections"}
INPUTS_OF_LAYER = {"per_layer_input_gate", "per_layer_projection", "post_per_layer_input_norm", "act_fn"}
STREAMS_OF_LAYER = {"altup", "laurel"}
SCALES = (("per_layer_model_projection_scale", "per_layer_projection_scale"), ("per_layer_input_scale",))
NEAR = 2e-2  # of the largest number: 16 bits are rounded several times
OF_ALTUP = {"correction_coefs", "prediction_coefs", "modality_router", "router_norm"}
OF_LAUREL = {"linear_left", "linear_right", "post_laurel_norm"}


@dataclass(frozen=True)
class ModelInputsLayout:
    """The inputs of all layers: rows of a table plus the normed projection of embeddings."""

    projection: Any
    norm: NormLayout
    table: Any
    rows: int
    width: int  # of a layer
    table_scale: float
    projected_scale: float  # before the norm
    scale: float  # of the sum


@dataclass(frozen=True)
class InputLayout:
    """The gate, activation, output matrix and norm of a layer's own inputs."""

    gate: Any
    out: Any
    after: NormLayout
    activation: Activation

    @property
    def width(self) -> int:
        return get_linear_sizes(self.gate)[0]


@dataclass(frozen=True)
class StreamLayout:
    """How a layer predicts and corrects streams, and the low-rank product beside its attention."""

    router: torch.Tensor  # [streams, hidden]
    predict: torch.Tensor  # [streams * streams, streams]
    correct: torch.Tensor  # [streams, streams]
    scale: torch.Tensor | None  # [hidden]
    router_norm: NormLayout
    router_scale: float
    narrow: Any
    wide: Any
    after_narrow: NormLayout


@dataclass(frozen=True)
class ModelStreamsLayout:
    """The matrices that make streams out of an embedding, and an lm_head's input out of streams."""

    active: int  # the stream that layers compute
    into: tuple[Any, ...]
    out_of: tuple[Any, ...]


def infer_model_inputs_layout(body: Any, like: torch.Tensor) -> ModelInputsLayout | None:
    """Describe how a model computes the inputs of its layers, and compare it with the model's functions.

    Raises NotFusable if they differ. like: a hidden state [1, hidden].
    """
    if not computing_child_names(body) >= INPUTS_OF_MODEL:
        return None
    table, projection = body.embed_tokens_per_layer, body.per_layer_model_projection
    width = int(body.hidden_size_per_layer_input)
    scales = [
        next((float(getattr(body, name)) for name in names if hasattr(body, name)), 1.0) for names in SCALES
    ]
    layout = ModelInputsLayout(
        projection,
        infer_norm_layout(body.per_layer_projection_norm, width, like),
        table,
        int(table.num_embeddings),
        width,
        float(torch.as_tensor(getattr(table, "embed_scale", 1.0)).to(like.dtype)),
        *scales,
    )
    last = layout.rows - 1
    # of tokens beyond the table, some models take the row of the first one
    beyond = [layout.rows] if layout.rows < body.embed_tokens.num_embeddings else []
    ids = torch.tensor([[0, last, *beyond]])
    rows = body.get_per_layer_inputs(ids)
    own = table(ids.where(ids < layout.rows, 0)).view_as(rows)
    hidden_states = like.new_ones(1, ids.shape[1], like.shape[-1])
    expected = body.project_per_layer_inputs(hidden_states, rows)
    projected = (projection(hidden_states) * layout.projected_scale).view_as(rows)
    computed = (body.per_layer_projection_norm(projected) + own) * layout.scale
    if not torch.equal(rows, own) or max_relative_error(computed.float(), expected.float()) > NEAR:
        raise NotFusable("the inputs of layers use an unsupported formula")
    return layout


def infer_input_layout(layer: Any, like: torch.Tensor) -> InputLayout | None:
    if not computing_child_names(layer) >= INPUTS_OF_LAYER:
        return None
    return InputLayout(
        layer.per_layer_input_gate,
        layer.per_layer_projection,
        infer_norm_layout(layer.post_per_layer_input_norm, like.shape[-1], like),
        identify_activation(layer.act_fn),
    )


def read_altup_streams_layout(body: Any) -> ModelStreamsLayout | None:
    if not computing_child_names(body) >= STREAMS_OF_MODEL:
        return None
    into, out_of = tuple(body.altup_projections), tuple(body.altup_unembed_projections)
    if len(into) != len(out_of) or not 1 <= len(into) < MAX_STREAMS:
        raise NotFusable(f"it has {len(into) + 1} streams")
    return ModelStreamsLayout(int(body.config.altup_active_idx), into, out_of)


def infer_stream_layout(layer: Any, like: torch.Tensor) -> StreamLayout | None:
    if not computing_child_names(layer) >= STREAMS_OF_LAYER:
        return None
    altup, laurel, hidden = layer.altup, layer.laurel, like.shape[-1]
    if computing_child_names(altup) != OF_ALTUP or computing_child_names(laurel) != OF_LAUREL:
        raise NotFusable("the streams of a layer have unsupported parts")
    return StreamLayout(
        _get_router_weight(altup.modality_router, like),
        _get_router_weight(altup.prediction_coefs, like),
        _get_router_weight(altup.correction_coefs, like),
        altup.correct_output_scale.detach() if altup.config.altup_correct_scale else None,
        infer_norm_layout(altup.router_norm, hidden, like),
        float(altup.router_input_scale),
        laurel.linear_left,
        laurel.linear_right,
        infer_norm_layout(laurel.post_laurel_norm, hidden, like),
    )


def _get_router_weight(layer: Any, like: torch.Tensor) -> torch.Tensor:
    """Return the matrix of a small linear layer in the model's dtype.

    A quantized layer gives its matrix as its output for an identity matrix.
    """
    if getattr(layer, "bias", None) is not None:
        raise NotFusable("the routers of the streams have biases")
    weight = layer._parameters.get("weight")
    if is_unquantized_linear(layer) and weight is not None and weight.dtype == like.dtype:
        plain: torch.Tensor = weight.detach()
        return plain
    identity = torch.eye(get_linear_sizes(layer)[1], dtype=like.dtype)
    columns: torch.Tensor = layer(identity)
    return columns.T.to(like.dtype).contiguous()
