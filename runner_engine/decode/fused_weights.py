"""The weights of a plain Llama in the order in which C reads them (kernels/fused_structs.h).

A model is recognised by its parts: what has others is not fusable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from runner_base import machine
from runner_engine.kernels import native
from runner_engine.kernels.shared_numbers import FusedLayer, FusedModel, Matrix, WeightFormat
from runner_engine.kv_cache import Heads
from runner_engine.matmul import OWN, ROW_PARTS, LayerWeights, Panels, fits_panels, is_plain, requested
from runner_engine.models.gguf_blocks import GgufEmbedding

PROJECTIONS = {"q_proj", "k_proj", "v_proj", "o_proj"}
PARTS = {
    "attention": (PROJECTIONS, PROJECTIONS | {"q_norm", "k_norm"}),
    "mlp": ({"gate_proj", "up_proj", "down_proj", "act_fn"},),
    "layer": ({"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"},),
}
ACTIVATIONS = ("silu", "swish")


class NotFusable(Exception):
    """The model has other parts than a plain Llama."""


class FusedWeights:
    """The weights of a model in the order in which C reads them."""

    def __init__(
        self, model: Any, heads: Heads, kernels: native.Kernels, packed: Mapping[nn.Module, LayerWeights]
    ) -> None:
        """Read the model; NotFusable where it is not a plain Llama, or one that is not supported.

        packed: the layers whose weights C already has; the others are packed here if the model is small.
        """
        self.heads, self.kernels, self.packed = heads, kernels, packed
        self.unpack_rows: nn.Embedding | None = None  # gives a pass the rows of its tokens
        self._kept: list[Any] = []  # tensors of which C has only the addresses
        self.is_quantized = False  # some of its layers
        self.is_by_row = True  # a row's sums do not depend on other rows
        self.is_small = model.num_parameters() < machine.ONE_THREAD_BELOW_PARAMETERS
        check_fusable(model, heads, kernels)
        body, settings, head = model.model, model.config, model.lm_head
        if settings.hidden_act not in ACTIVATIONS:
            raise NotFusable(f"its MLP goes through {settings.hidden_act}")
        self.rotary, self.hidden, first = body.rotary_emb, settings.hidden_size, body.layers[0]
        self.inner, self.scale = first.mlp.gate_proj.out_features, first.self_attn.scaling
        self.epsilon = body.norm.variance_epsilon
        layers = [self._layer(layer) for layer in body.layers]
        if head.bias is not None or len(layers) != heads.layers:
            raise NotFusable("its head or its number of layers differs")
        self.vocabulary, self.rows = head.out_features, len(body.embed_tokens.weight)
        of_head = self._matrix(head, self.hidden, self.vocabulary)
        self.layers = (FusedLayer * len(layers))(*layers)
        self.model = FusedModel(
            len(layers), self.hidden, self.inner, heads.kv_heads, heads.group, heads.dim, self.is_quantized,
            heads.is_int8, self.rows, 0, heads.attention_tile_rows, self.epsilon, self.scale,
            self._embedding(body.embed_tokens), self._norm(body.norm, self.hidden),
            None, None, of_head,
        )  # fmt: skip

    def _layer(self, layer: Any) -> FusedLayer:
        attention, mlp, heads = layer.self_attn, layer.mlp, self.heads
        for module, kind in ((attention, "attention"), (mlp, "mlp"), (layer, "layer")):
            if {name for name, _ in module.named_children()} not in PARTS[kind]:
                raise NotFusable(f"its {kind} has other parts")
        if attention.scaling != self.scale:
            raise NotFusable("its layers differ")
        queries, pairs = heads.kv_heads * heads.group * heads.dim, heads.kv_heads * heads.dim
        hidden, inner = self.hidden, self.inner
        has_norms = hasattr(attention, "q_norm")
        if any(one.bias is not None for one in (mlp.gate_proj, mlp.up_proj)):
            raise NotFusable("its MLP has biases")
        qkv = (
            self._matrix(attention.q_proj, hidden, queries),
            self._matrix(attention.k_proj, hidden, pairs),
            self._matrix(attention.v_proj, hidden, pairs),
        )
        gated = self._matrix(mlp.gate_proj, hidden, inner), self._matrix(mlp.up_proj, hidden, inner)
        if len({_rows_of(one) for one in qkv if WeightFormat(one.kind).has_byte_rows}) > 1:
            raise NotFusable("the rows of its queries, keys and values are quantized in different ways")
        if len({(*_rows_of(one), one.block) for one in gated}) > 1:
            raise NotFusable("the two matrices that gate its MLP are quantized differently")
        return FusedLayer(
            self._norm(layer.input_layernorm, hidden), self._norm(layer.post_attention_layernorm, hidden),
            self._norm(attention.q_norm, heads.dim) if has_norms else None,
            self._norm(attention.k_norm, heads.dim) if has_norms else None,
            (Matrix * 3)(*qkv),
            self._matrix(attention.o_proj, queries, hidden),
            (Matrix * 2)(*gated),
            self._matrix(mlp.down_proj, inner, hidden),
        )  # fmt: skip

    def _matrix(self, layer: Any, inputs: int, outputs: int) -> Matrix:
        weights = self.packed.get(layer)
        if weights is None:
            if not is_plain(layer):
                raise NotFusable("its linear layers are not plain ones")
            is_ours = requested() in (None, *OWN)
            if not self.is_small or not is_ours or not fits_panels(layer.weight, self.kernels):
                raise NotFusable("its linear layers cannot be packed in panels")
            weights = Panels.of(layer.weight, layer.bias, self.kernels)
        if self.heads.dtype not in weights.formats or (weights.matrix.outputs, weights.inputs) != (outputs, inputs):
            raise NotFusable("its linear layers have another number format, or other sizes")
        self._kept.append(weights.tensors)
        self.is_quantized |= WeightFormat(weights.matrix.kind).needs_workspace
        if weights.matrix.kind == WeightFormat.row_int8 and weights.matrix.threshold:
            self.is_by_row = False  # the outliers of one row count for all rows
        return weights.matrix

    def _embedding(self, layer: Any) -> int | None:
        """Return the address of the table; None if it is in blocks or in panels: a pass gets the rows of its tokens."""
        if type(layer) is nn.Embedding and "forward" in vars(layer):
            self.unpack_rows = layer
            return None
        if not isinstance(layer, GgufEmbedding):
            return self._hold(layer.weight, self.rows, self.hidden)
        if layer.factor is not None or layer.dtype != self.heads.dtype:
            raise NotFusable("its embedding is scaled")
        self.unpack_rows = layer
        return None

    def _norm(self, layer: Any, width: int) -> int:
        if layer.variance_epsilon != self.epsilon or layer.weight.shape != (width,):
            raise NotFusable("its norms differ")
        return self._hold(layer.weight, width)

    def _hold(self, tensor: torch.Tensor, *shape: int) -> int:
        """Keep a tensor alive, and return its address."""
        tensor = tensor.detach()
        if tensor.dtype != self.heads.dtype or tensor.device.type != "cpu" or tensor.shape != shape:
            raise NotFusable("it has weights of another kind")
        self._kept.append(tensor.contiguous())
        return native.pointer(self._kept[-1], self.heads.dtype, *shape)


def check_fusable(model: Any, heads: Heads, kernels: native.Kernels) -> None:
    """Reject a model that C cannot run, whatever its parts are."""
    if not kernels.has("fused_forward", heads.dtype):
        raise NotFusable("this processor has no products of such numbers")
    if not heads.plain_softmax:
        raise NotFusable("its softmax has caps or sinks")
    if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
        raise NotFusable("its layers have hooks")


def _rows_of(matrix: Matrix) -> tuple[float, ...]:
    """Return how a matrix's rows are quantized before they are multiplied."""
    zero_point = matrix.zero_point if matrix.kind == WeightFormat.int8_stored else 0
    row_part = ROW_PARTS[matrix.block] if matrix.kind == WeightFormat.byte_blocks else 0
    return matrix.kind, matrix.threshold, matrix.row_scale, zero_point, row_part
