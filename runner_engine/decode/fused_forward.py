"""A plain Llama's forward pass as a single call of C (kernels/fused_forward.h).

Each operation of torch costs time in Python, starts and ends a region of threads, and writes memory that the next one
reads; with a small model or pass, that takes as long as the arithmetic. A model is recognised by its parts
(fused_weights.py), and then its logits are compared with those of its own forward pass.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from runner_engine.attention import PassLayout
from runner_engine.checkpoints.pass_memory import quantized_workspace_bytes
from runner_engine.decode.fused_weights import FusedWeights, NotFusable
from runner_engine.kernels import native
from runner_engine.kernels.shared_numbers import (
    CACHE_LINE,
    LAYER_PHASES,
    PHASE_BYTES,
    PRODUCT_PHASES,
    FusedTokens,
    SharedPart,
)
from runner_engine.kv_cache import Heads
from runner_engine.matmul import LayerWeights

FIRST_POSITIONS = 1024  # of RoPE's table at first; it grows with the rows


class FusedForward:
    """A model that C runs: its weights, and the table of its rotary embedding."""

    def __init__(
        self,
        model: Any,
        heads: Heads,
        positions: int,
        kernels: native.Kernels,
        packed: Mapping[nn.Module, LayerWeights],
    ) -> None:
        """Read the model; NotFusable where it is not a plain Llama, or one that is not supported.

        positions: how many its rotary embedding supports. packed: as of FusedWeights.
        """
        self.heads, self.kernels, self.positions = heads, kernels, positions
        self._rope_table: tuple[torch.Tensor, torch.Tensor] | None = None
        try:
            self.weights = FusedWeights(model, heads, kernels, packed)
            self._extend_rope_table(min(FIRST_POSITIONS, positions))
        except (AttributeError, TypeError, IndexError) as error:
            raise NotFusable(f"it has no such parts: {error}") from error
        self.is_quantized, self.is_by_row = self.weights.is_quantized, self.weights.is_by_row

    @property
    def layers(self) -> int:
        """How many layers a pass goes through; fewer than the model's in a trial."""
        return int(self.weights.model.layers)

    @layers.setter
    def layers(self, count: int) -> None:
        self.weights.model.layers = count

    def fits(self, positions: list[int]) -> bool:
        """Whether its rotary embedding supports the positions of a pass."""
        return max(positions) < self.positions

    def __call__(
        self, layout: PassLayout, ids: list[int], positions: list[int], keep: list[int] | None
    ) -> torch.Tensor:
        """Return the logits [n, V] after the tokens in `keep`, or after all tokens."""
        self._extend_rope_table(max(positions) + 1)
        weights, count = self.weights, len(ids)
        pointer, int32 = native.pointer, torch.int32
        kept = torch.arange(count, dtype=torch.int32) if keep is None else torch.tensor(keep, dtype=torch.int32)
        if weights.unpack_rows is not None:
            with torch.inference_mode():
                rows = weights.unpack_rows(torch.tensor(ids))
            weights.model.embedding, weights.model.embedding_rows, ids = rows.data_ptr(), count, list(range(count))
        numbers = torch.tensor([ids, positions], dtype=torch.int32)
        parts = _parts(layout, count)
        workspace = torch.empty(self._workspace_bytes(count, [part.tokens for part in parts]), dtype=torch.uint8)
        logits = torch.empty(kept.numel(), weights.vocabulary, dtype=self.heads.dtype)
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
            ctypes.addressof(weights.model), ctypes.addressof(weights.layers), ctypes.addressof(tokens),
        )  # fmt: skip
        return logits

    def _workspace_bytes(self, tokens: int, of_parts: list[int]) -> int:
        """Return the bytes of a pass's workspace, as fused_forward.h allocates them."""
        weights, heads, size = self.weights, self.heads, self.heads.dtype.itemsize
        queries, pairs = heads.kv_heads * heads.group, heads.kv_heads * heads.dim
        wide = queries * heads.dim
        pieces = [(heads.layers * LAYER_PHASES + PRODUCT_PHASES + 1) * PHASE_BYTES]
        pieces += [tokens * width * size for width in (weights.hidden, weights.hidden, wide + 2 * pairs)]
        pieces.append(tokens * max(wide, weights.inner) * size)
        for count in of_parts:
            pieces += [count * wide * size, count * queries * 4, count * queries * 4]
        if weights.is_quantized:
            widest = max(wide, weights.hidden, weights.inner)
            pieces.append(quantized_workspace_bytes(tokens, widest, torch.get_num_threads()))
        return int(sum(pieces)) + CACHE_LINE * len(pieces)

    def _extend_rope_table(self, positions: int) -> None:
        """Extend the table of cos and sin to at least so many positions."""
        known = 0 if self._rope_table is None else self._rope_table[0].shape[0]
        if positions <= known:
            return
        count = min(max(positions, 2 * known), self.positions)
        with torch.inference_mode():
            cos, sin = self.weights.rotary(torch.zeros(1, dtype=self.heads.dtype), torch.arange(count)[None])
        if cos.shape != (1, count, self.heads.dim) or cos.dtype != self.heads.dtype:
            raise NotFusable("it rotates a part of each head, or otherwise")
        self._rope_table = cos[0].contiguous(), sin[0].contiguous()
        shape = count, self.heads.dim
        of_model = self.weights.model
        of_model.cos, of_model.sin = (native.pointer(table, self.heads.dtype, *shape) for table in self._rope_table)
        of_model.positions = count


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
