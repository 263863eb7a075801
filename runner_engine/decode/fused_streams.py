"""Inputs of layers and streams (Gemma 3n and 4) in the fused forward pass.

C structures: kernels/stream_structs.h and kernels/head_structs.h.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import torch

from runner_engine.decode.fused_latents import MatrixOf, NormOf
from runner_engine.decode.layouts import HeadShapeLayout, LayerLayout, ModelLayout, NotFusable
from runner_engine.decode.layouts.streams import InputLayout, StreamLayout
from runner_engine.kernels.c_interface import PHASE_BYTES
from runner_engine.kernels.matrix_structures import Matrix
from runner_engine.kernels.stream_structures import (
    INPUT_PHASES,
    MAX_STREAMS,
    STREAM_ENDS_PHASES,
    STREAM_PHASES,
    HeadShape,
    LayerInput,
    ModelInputs,
    ModelStreams,
    StreamLayer,
)
from runner_engine.kv_cache import KvCacheSpec
from runner_engine.models.lora.unmerged import find_unmerged_lora

KeepTensor = Callable[..., int]  # keeps a tensor of such a shape alive, and returns its address


class FusedStreams:
    """Head shapes, inputs of layers and streams of a model in C structures."""

    def __init__(
        self,
        layout: ModelLayout,
        kv_spec: KvCacheSpec,
        build_matrix: MatrixOf,
        build_norm: NormOf,
        keep_tensor: KeepTensor,
    ) -> None:
        self.layout, self.heads = layout, kv_spec
        self.matrix_of, self.norm_of, self.keep_tensor = build_matrix, build_norm, keep_tensor
        self.hidden = layout.norm.weight.numel()
        self._kept: list[Any] = []  # what C has the addresses of
        self._reads_table = False  # C looks up the layers' inputs
        self._input_starts = _compute_layer_input_offsets(layout.layers)
        shapes = [layer.attention.shape for layer in layout.layers if layer.attention is not None]
        self._shaped_widths = [self.get_projection_widths(shape) for shape in shapes if shape is not None]
        self._rank = max(
            (_count_outputs(layer.streams.narrow) for layer in layout.layers if layer.streams), default=0
        )

    @property
    def input_width(self) -> int:
        """Size of the inputs of all layers for one token. 0 if the model has none."""
        return self._input_starts[-1]

    @property
    def max_inputs(self) -> int:
        return max(self._rank, *(layer.input.width if layer.input else 0 for layer in self.layout.layers))

    def look_up_layer_inputs(self, token_ids: Sequence[int]) -> torch.Tensor | None:
        """Return the rows of the layers' inputs for the tokens of a pass, if C cannot read their table."""
        inputs = self.layout.inputs
        if inputs is None or self._reads_table:
            return None
        ids = torch.tensor(token_ids)
        with torch.inference_mode():
            rows: torch.Tensor = inputs.table(torch.where(ids < inputs.rows, ids, 0)).contiguous()
        if rows.shape != (len(token_ids), self.input_width) or rows.dtype != self.heads.dtype:
            raise RuntimeError(f"the inputs of layers are {rows.dtype} {list(rows.shape)}")
        return rows

    def get_projection_widths(self, shape: HeadShapeLayout) -> tuple[int, ...]:
        queries, pairs = self.heads.kv_heads * self.heads.group * shape.dim, shape.kv_heads * shape.dim
        count = 0 if shape.reads_earlier else 1 if shape.values_are_keys else 2
        return (queries, *[pairs] * count)

    def shape_address(self, shape: HeadShapeLayout | None) -> int | None:
        if shape is None:
            return None
        return self._keep_struct(
            HeadShape(
                shape.kv_heads,
                shape.dim,
                shape.reads_earlier,
                shape.values_are_keys,
                self.norm_of(shape.norm_values, None),
            )
        )

    def layer_fields(self, layer_index: int, layer: LayerLayout) -> dict[str, Any]:
        return {
            "output_scale": layer.output_scale,
            "input": self._input_address(layer.input, self._input_starts[layer_index]),
            "streams": self._build_layer_streams_struct(layer.streams),
        }

    def get_layer_inputs_address(self, keeps_token_ids: bool) -> int | None:
        """Build the C structure of the inputs of all layers.

        keeps_token_ids: a pass gets the ids of tokens, and not rows of embeddings by number.
        """
        inputs = self.layout.inputs
        if inputs is None:
            return None
        if find_unmerged_lora(inputs.projection) is not None:
            raise NotFusable("an adapter changes the projection of the layers' inputs")
        weight = getattr(inputs.table, "weight", None)
        makes_rows = getattr(inputs.table, "makes_rows", False) or not isinstance(weight, torch.Tensor)
        self._reads_table = keeps_token_ids and not makes_rows
        table = self.keep_tensor(weight, inputs.rows, self.input_width) if self._reads_table else None
        return self._keep_struct(
            ModelInputs(
                projection=self.matrix_of(inputs.projection, self.hidden, self.input_width),
                norm=self.norm_of(inputs.norm, inputs.width),
                table=table,
                rows=inputs.rows,
                width=inputs.width,
                table_scale=inputs.table_scale if self._reads_table else 1.0,
                projected_scale=inputs.projected_scale,
                scale=inputs.scale,
            )
        )

    def build_model_streams_struct(self) -> int | None:
        streams = self.layout.streams
        if streams is None:
            return None
        matrices = []
        for layers in (streams.into, streams.out_of):
            if any(find_unmerged_lora(layer) is not None for layer in layers):
                raise NotFusable("an adapter changes the projections of streams")
            made = [self.matrix_of(layer, self.hidden, self.hidden) for layer in layers]
            matrices.append((Matrix * (MAX_STREAMS - 1))(*made))
        return self._keep_struct(ModelStreams(1 + len(streams.into), streams.active, *matrices))

    def compute_workspace_sizes(self, num_tokens: int) -> list[int]:
        """Return the size in bytes of each workspace buffer (see stream_structs.h)."""
        layers, size = self.layout.layers, num_tokens * self.heads.dtype.itemsize
        count = 0 if self.layout.streams is None else 1 + len(self.layout.streams.into)
        phases = STREAM_ENDS_PHASES * bool(count) + INPUT_PHASES * bool(self.layout.inputs)
        phases += sum(
            INPUT_PHASES * bool(layer.input) + STREAM_PHASES * bool(layer.streams) for layer in layers
        )
        widest = max((sum(widths) for widths in self._shaped_widths), default=0)
        of_streams = [count * self.hidden * size, self.hidden * size] if count else []
        widths = widest, self.max_inputs, self.input_width
        return [phases * PHASE_BYTES, *(width * size for width in widths), *of_streams]

    def _input_address(self, layout: InputLayout | None, first: int) -> int | None:
        if layout is None:
            return None
        return self._keep_struct(
            LayerInput(
                gate=self.matrix_of(layout.gate, self.hidden, layout.width),
                out=self.matrix_of(layout.out, layout.width, self.hidden),
                after=self.norm_of(layout.after, self.hidden),
                first=first,
                width=layout.width,
                activation=layout.activation,
            )
        )

    def _build_layer_streams_struct(self, layout: StreamLayout | None) -> int | None:
        if layout is None:
            return None
        count, rank = len(layout.router), _count_outputs(layout.narrow)
        return self._keep_struct(
            StreamLayer(
                router=self.keep_tensor(layout.router, count, self.hidden),
                predict=self.keep_tensor(layout.predict, count * count, count),
                correct=self.keep_tensor(layout.correct, count, count),
                scale=None if layout.scale is None else self.keep_tensor(layout.scale, self.hidden),
                router_norm=self.norm_of(layout.router_norm, self.hidden),
                after_narrow=self.norm_of(layout.after_narrow, self.hidden),
                narrow=self.matrix_of(layout.narrow, self.hidden, rank),
                wide=self.matrix_of(layout.wide, rank, self.hidden),
                router_scale=layout.router_scale,
            )
        )

    def _keep_struct(self, struct: ctypes.Structure) -> int:
        self._kept.append(struct)
        return ctypes.addressof(struct)


def _compute_layer_input_offsets(layers: Sequence[LayerLayout]) -> list[int]:
    """Return where the inputs of each layer begin in a token's row, and the size of the row."""
    starts = [0]
    for layer in layers:
        starts.append(starts[-1] + (layer.input.width if layer.input else 0))
    return starts


def _count_outputs(layer: Any) -> int:
    return int(layer.out_features)
