"""A plain Llama's forward pass as a single call of C (kernels/fused_forward.h).

Each operation of torch costs time in Python, starts and ends a region of threads, and writes memory that the next one
reads; with a small model or pass, that takes as long as the arithmetic. A model is recognised by its parts, and then
its logits are compared with those of its own forward pass.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from runner_base import machine
from runner_engine.attention.attention import PassLayout
from runner_engine.checkpoints.pass_memory import quantized_workspace_bytes
from runner_engine.decode.fast_layers import is_plain
from runner_engine.kernels import native
from runner_engine.kernels.shared_numbers import (
    CACHE_LINE,
    LAYER_PHASES,
    PHASE_BYTES,
    PRODUCT_PHASES,
    FusedLayer,
    FusedModel,
    FusedTokens,
    Matrix,
    SharedPart,
    WeightFormat,
)
from runner_engine.kv_cache.kv_cache import Heads
from runner_engine.matmul import blocks
from runner_engine.matmul.matrices import LayerWeights
from runner_engine.matmul.panels import Panels, fits_panels
from runner_engine.matmul.products import OWN, requested
from runner_engine.models.gguf_blocks import GgufEmbedding

PROJECTIONS = {"q_proj", "k_proj", "v_proj", "o_proj"}
PARTS = {
    "attention": (PROJECTIONS, PROJECTIONS | {"q_norm", "k_norm"}),
    "mlp": ({"gate_proj", "up_proj", "down_proj", "act_fn"},),
    "layer": ({"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"},),
}
# quantized once for all matrices of a product
BYTE_ROWS = (
    WeightFormat.row_int8,
    WeightFormat.int8_dynamic,
    WeightFormat.int8_stored,
    WeightFormat.byte_blocks,
    WeightFormat.byte_groups,
)
WITHOUT_WORKSPACE = (WeightFormat.plain, WeightFormat.blocks, WeightFormat.groups, WeightFormat.four_bit_rows)
ACTIVATIONS = ("silu", "swish")
FIRST_POSITIONS = 1024  # of RoPE's table at first; it grows with the rows


class NotFusable(Exception):
    """The model has other parts than a plain Llama."""


class FusedForward:
    """The weights of a model in the order in which C reads them."""

    def __init__(
        self,
        model: Any,
        heads: Heads,
        positions: int,
        kernels: native.Kernels,
        packed: Mapping[nn.Module, LayerWeights],
    ) -> None:
        """Read the model; NotFusable where it is not a plain Llama, or one that is not supported.

        positions: how many its rotary embedding supports. packed: the layers whose weights C already has; the others
        are packed here if the model is small.
        """
        self.heads, self.kernels, self.positions, self.packed = heads, kernels, positions, packed
        self._unpack_rows: nn.Embedding | None = None
        self._kept: list[Any] = []  # tensors of which C has only the addresses
        self.is_quantized = False  # some of its layers
        self.is_by_row = True  # a row's sums do not depend on other rows
        self.is_small = model.num_parameters() < machine.ONE_THREAD_BELOW_PARAMETERS
        if not kernels.has("fused_forward", heads.dtype):
            raise NotFusable("this processor has no products of such numbers")
        if not heads.plain_softmax:
            raise NotFusable("its softmax has caps or sinks")
        if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
            raise NotFusable("its layers have hooks")
        try:
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
            self._layers = (FusedLayer * len(layers))(*layers)
            self._model = FusedModel(
                len(layers), self.hidden, self.inner, heads.kv_heads, heads.group, heads.dim, self.is_quantized,
                heads.is_int8, self.rows, 0, heads.attention_tile_rows, self.epsilon, self.scale,
                self._embedding(body.embed_tokens), self._norm(body.norm, self.hidden),
                None, None, of_head,
            )  # fmt: skip
            self._rope_table: tuple[torch.Tensor, torch.Tensor] | None = None
            self._extend_rope_table(min(FIRST_POSITIONS, positions))
        except (AttributeError, TypeError, IndexError) as error:
            raise NotFusable(f"it has no such parts: {error}") from error

    @property
    def layers(self) -> int:
        """How many layers a pass goes through; fewer than the model's in a trial."""
        return int(self._model.layers)

    @layers.setter
    def layers(self, count: int) -> None:
        self._model.layers = count

    def fits(self, positions: list[int]) -> bool:
        """Whether its rotary embedding supports the positions of a pass."""
        return max(positions) < self.positions

    def __call__(
        self, layout: PassLayout, ids: list[int], positions: list[int], keep: list[int] | None
    ) -> torch.Tensor:
        """Return the logits [n, V] after the tokens in `keep`, or after all tokens."""
        self._extend_rope_table(max(positions) + 1)
        count = len(ids)
        pointer, int32 = native.pointer, torch.int32
        kept = torch.arange(count, dtype=torch.int32) if keep is None else torch.tensor(keep, dtype=torch.int32)
        if self._unpack_rows is not None:
            with torch.inference_mode():
                rows = self._unpack_rows(torch.tensor(ids))
            self._model.embedding, self._model.embedding_rows, ids = rows.data_ptr(), count, list(range(count))
        numbers = torch.tensor([ids, positions], dtype=torch.int32)
        parts = _parts(layout, count)
        workspace = torch.empty(self._workspace_bytes(count, [part.tokens for part in parts]), dtype=torch.uint8)
        logits = torch.empty(kept.numel(), self.vocabulary, dtype=self.heads.dtype)
        part_list = (SharedPart * len(parts))(*parts)
        tokens = FusedTokens(
            layout.own.table.data_ptr(), len(layout.own.table), count,
            pointer(numbers[0], int32, count), pointer(numbers[1], int32, count),
            *(pointer(one, int32, count) for one in (layout.slot, layout.place, layout.seen)),
            int(layout.is_step), kept.numel(), kept.data_ptr(),
            len(parts), ctypes.addressof(part_list), workspace.data_ptr(), logits.data_ptr(), workspace.nbytes,
        )  # fmt: skip
        self.kernels(
            "fused_forward", self.heads.dtype,
            ctypes.addressof(self._model), ctypes.addressof(self._layers), ctypes.addressof(tokens),
        )  # fmt: skip
        return logits

    def _workspace_bytes(self, tokens: int, of_parts: list[int]) -> int:
        """Return the bytes of a pass's workspace, as fused_forward.h allocates them."""
        heads, size = self.heads, self.heads.dtype.itemsize
        queries, pairs = heads.kv_heads * heads.group, heads.kv_heads * heads.dim
        wide = queries * heads.dim
        pieces = [(heads.layers * LAYER_PHASES + PRODUCT_PHASES + 1) * PHASE_BYTES]
        pieces += [tokens * width * size for width in (self.hidden, self.hidden, wide + 2 * pairs)]
        pieces.append(tokens * max(wide, self.inner) * size)
        for count in of_parts:
            pieces += [count * wide * size, count * queries * 4, count * queries * 4]
        if self.is_quantized:
            widest = max(wide, self.hidden, self.inner)
            pieces.append(quantized_workspace_bytes(tokens, widest, torch.get_num_threads()))
        return int(sum(pieces)) + CACHE_LINE * len(pieces)

    def _extend_rope_table(self, positions: int) -> None:
        """Extend the table of cos and sin to at least so many positions."""
        known = 0 if self._rope_table is None else self._rope_table[0].shape[0]
        if positions <= known:
            return
        count = min(max(positions, 2 * known), self.positions)
        with torch.inference_mode():
            cos, sin = self.rotary(torch.zeros(1, dtype=self.heads.dtype), torch.arange(count)[None])
        if cos.shape != (1, count, self.heads.dim) or cos.dtype != self.heads.dtype:
            raise NotFusable("it rotates a part of each head, or otherwise")
        self._rope_table = cos[0].contiguous(), sin[0].contiguous()
        shape = count, self.heads.dim
        self._model.cos, self._model.sin = (native.pointer(one, self.heads.dtype, *shape) for one in self._rope_table)
        self._model.positions = count

    # ------------------------------------------------------------------------------------- reading the model

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
        if len({_rows_of(one) for one in qkv if one.kind in BYTE_ROWS}) > 1:
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
        self.is_quantized |= weights.matrix.kind not in WITHOUT_WORKSPACE
        self.is_by_row &= (
            weights.matrix.kind != WeightFormat.row_int8 or not weights.matrix.threshold
        )  # the outliers of one row count for all rows
        return weights.matrix

    def _embedding(self, layer: Any) -> int | None:
        """Return the address of the table; None if it is in blocks or in panels: a pass gets the rows of its tokens."""
        if type(layer) is nn.Embedding and "forward" in vars(layer):
            self._unpack_rows = layer
            return None
        if not isinstance(layer, GgufEmbedding):
            return self._hold(layer.weight, self.rows, self.hidden)
        if layer.factor is not None or layer.dtype != self.heads.dtype:
            raise NotFusable("its embedding is scaled")
        self._unpack_rows = layer
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


def _rows_of(matrix: Matrix) -> tuple[float, ...]:
    """Return how a matrix's rows are quantized before they are multiplied."""
    zero_point = matrix.zero_point if matrix.kind == WeightFormat.int8_stored else 0
    row_part = blocks.ROW_PARTS[matrix.block] if matrix.kind == WeightFormat.byte_blocks else 0
    return matrix.kind, matrix.threshold, matrix.row_scale, zero_point, row_part


def _parts(layout: PassLayout, count: int) -> list[SharedPart]:
    """Return what several tokens share: prefixes and spans."""
    parts = []
    for use in layout.uses:
        chosen = native.pointer_or_none(use.rows, torch.int64, use.count)
        row_of = native.pointer(use.row_of, torch.int32, count)
        parts.append(SharedPart(use.kv.store.table[0].data_ptr(), use.kv.length, 0, chosen, 0, use.count, row_of))
    for span, rows in zip(layout.spans, layout.span_rows, strict=True):
        arena, row_of = layout.own.table[span.slot].data_ptr(), native.pointer(rows, torch.int32, count)
        parts.append(SharedPart(arena, span.before + 1, 1, None, span.first, span.last - span.first, row_of))
    return parts
