"""A decoder's forward pass as a single call of C (kernels/fused_forward.h).

Each operation of torch costs time in Python, starts and ends a region of threads, and writes memory
that the next one reads; with a small model or pass, that takes as long as the arithmetic. A model
is described by its parts (layouts/, fused_weights.py), and then its logits are compared with those
of its own forward pass.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from runner_engine.attention import PassLayout, PrefixUse
from runner_engine.checkpoints.pass_memory import quantized_workspace_bytes
from runner_engine.decode.fused_weights import FusedWeights, NotFusable
from runner_engine.kernels import native
from runner_engine.kernels.shared_numbers import (
    CACHE_LINE,
    LAYER_PHASES,
    OWN_PIECE,
    PHASE_BYTES,
    PRODUCT_PHASES,
    FusedTokens,
    SharedPart,
)
from runner_engine.kv_cache import Heads, Window
from runner_engine.matmul import ExpertLayer, LayerWeights

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
        experts: Mapping[nn.Module, ExpertLayer] = MappingProxyType({}),
    ) -> None:
        """Read the model; NotFusable where it has parts that C does not know, or that are not
        supported.

        positions: how many its rotary embedding supports. packed, experts: as of FusedWeights.
        """
        self.heads, self.kernels, self.positions = heads, kernels, positions
        self._rope_tables: list[tuple[torch.Tensor, torch.Tensor]] = []  # cos and sin
        self._query_scales: torch.Tensor | None = None  # of positions
        self._extended = 0  # their positions
        self.after_pass: Callable[[int], object] = int  # is told of a pass's tokens
        try:
            with torch.inference_mode():
                self.weights = FusedWeights(model, heads, kernels, packed, experts)
            self.positions = min(positions, self.weights.positions or positions)
            self._extend_rope_tables(min(FIRST_POSITIONS, self.positions))
        except (AttributeError, TypeError, IndexError) as error:
            raise NotFusable(f"it has no such parts: {error}") from error
        self.is_quantized, self.is_by_row = self.weights.is_quantized, self.weights.is_by_row

    @property
    def layers(self) -> int:
        """How many layers a pass goes through; fewer than the model's in a trial."""
        return int(self.weights.model.layers)

    @contextmanager
    def shallow(self, model: Any, most: int) -> Iterator[None]:
        """Let passes go through the first layers alone, at most so many, here and in the model
        itself."""
        weights, settings, layers = self.weights, model.config.get_text_config(), self.layers
        body, name, own = weights.body, weights.name_of_layers, settings.num_hidden_layers
        all_blocks = getattr(body, name)
        blocks = sum(weights.blocks[:most])
        try:
            weights.model.layers, settings.num_hidden_layers = min(most, layers), blocks
            setattr(body, name, all_blocks[:blocks])  # not all families look at the number
            yield
        finally:
            weights.model.layers, settings.num_hidden_layers = layers, own
            setattr(body, name, all_blocks)

    def fits(self, positions: list[int]) -> bool:
        """Whether its rotary embedding supports the positions of a pass."""
        return max(positions) < self.positions

    def __call__(
        self,
        layout: PassLayout,
        ids: list[int],
        positions: list[int],
        keep: list[int] | None,
        hidden: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the logits [n, V] after the tokens in `keep`, or after all tokens.

        hidden: [tokens, width], is filled with what the head reads of every token.
        """
        self._extend_rope_tables(max(positions) + 1)
        weights, count = self.weights, len(ids)
        pointer, int32 = native.pointer, torch.int32
        kept = range(count) if keep is None else keep
        if weights.unpack_rows is not None:
            with torch.inference_mode():
                rows = weights.unpack_rows(torch.tensor(ids))
            weights.model.embedding, weights.model.embedding_rows, ids = (
                rows.data_ptr(),
                count,
                list(range(count)),
            )
        # not tensors: after a pass, whose weights fill all caches, each call of torch takes long
        numbers = (ctypes.c_int32 * (2 * count + len(kept)))(*ids, *positions, *kept)
        of_numbers = (
            ctypes.addressof(numbers) + ctypes.sizeof(ctypes.c_int32) * at for at in (0, count, 2 * count)
        )
        at_ids, at_positions, at_kept = of_numbers
        layout.positions = positions
        windows = _Windows(layout, weights.windows)
        parts = _parts(layout, count, windows)
        pieces = _own_pieces(layout.seen) if max(positions) >= OWN_PIECE else 0
        adapted = weights.adapters.of_pass(count)
        needed = self._workspace_bytes(count, [part.tokens for part in parts], pieces)
        needed += self._bytes_of(weights.adapters.workspace_pieces(adapted, self._widest))
        workspace = torch.empty(needed, dtype=torch.uint8)
        apart = [
            torch.empty(count, weights.hidden, dtype=self.heads.dtype) for _ in range(2 * self.has_mlps_apart)
        ]
        logits = torch.empty(len(kept), weights.vocabulary, dtype=self.heads.dtype)
        part_list = (SharedPart * len(parts))(*parts)
        tokens = FusedTokens(
            layout.own.table.data_ptr(),
            len(layout.own.table),
            count,
            at_ids,
            at_positions,
            *(pointer(one, int32, count) for one in (layout.slot, layout.place, layout.seen)),
            int(layout.is_step),
            len(kept),
            at_kept,
            len(parts),
            ctypes.addressof(part_list),
            workspace.data_ptr(),
            logits.data_ptr(),
            workspace.nbytes,
            len(weights.windows),
            windows.own,
            0,
            *(some.data_ptr() for some in apart),
        )
        if weights.mixers.count:
            weights.mixers.point(tokens, layout.own.states)
        if adapted is not None:
            tokens.adapted = ctypes.addressof(adapted)
        if hidden is not None:
            tokens.hidden = native.pointer(hidden, self.heads.dtype, count, weights.hidden)
        self._run(tokens, apart)
        self.after_pass(count)
        return logits

    def hidden_of(self, count: int) -> torch.Tensor:
        """Return room for what the head reads of so many tokens."""
        return torch.empty(count, self.weights.hidden, dtype=self.heads.dtype)

    @property
    def expert_counts(self) -> Mapping[nn.Module, torch.Tensor]:
        """How often each expert was chosen in passes, by the module of a layer's experts."""
        return self.weights.mixtures.counts

    @property
    def has_mlps_apart(self) -> bool:
        """Whether modules of the model compute some of its MLPs, between two calls."""
        return bool(self.weights.apart)

    def _run(self, tokens: FusedTokens, apart: Sequence[torch.Tensor]) -> None:
        """Run a pass: in one call, or in pieces, between which modules compute MLPs that C does not
        know."""
        for layer, mlp in self.weights.apart.items():
            if layer < self.layers:
                self._call(tokens)
                with torch.inference_mode():
                    done = mlp(apart[0][None])
                apart[1].copy_((done[0] if isinstance(done, tuple) else done).view_as(apart[1]))
                tokens.first_layer = layer + 1
        self._call(tokens)

    def _call(self, tokens: FusedTokens) -> None:
        weights = self.weights
        self.kernels(
            "fused_forward",
            self.heads.dtype,
            ctypes.addressof(weights.model),
            ctypes.addressof(weights.layers),
            ctypes.addressof(tokens),
        )

    def _workspace_bytes(self, tokens: int, of_parts: list[int], own_pieces: int = 0) -> int:
        """Return the bytes of a pass's workspace, as fused_forward.h allocates them."""
        weights, heads, size = self.weights, self.heads, self.heads.dtype.itemsize
        queries, pairs = heads.kv_heads * heads.group, heads.kv_heads * heads.dim
        wide = queries * heads.dim
        phases = len(weights.layers) * LAYER_PHASES + weights.mixers.phases(tokens) + PRODUCT_PHASES + 3
        of_gates, of_mixers = wide * weights.has_query_gates, weights.mixers
        before = max(wide + of_gates + 2 * pairs, of_mixers.before)
        behind = max(wide, weights.inner, of_mixers.behind)
        pieces = [phases * PHASE_BYTES]
        pieces += [
            tokens * width * size for width in (weights.hidden, weights.hidden, before, behind, of_gates)
        ]
        pieces.append(of_mixers.bytes(tokens, size))
        pieces += [tokens * weights.hidden * size * weights.has_halves, tokens * weights.gates * size]
        pieces.append(tokens * weights.hidden * size * (weights.has_halves and of_mixers.count > 0))
        for count in of_parts:
            pieces += [count * wide * size, count * queries * 4, count * queries * 4]
        pieces += [4 * own_pieces, 4 * own_pieces, 4 * own_pieces * queries * (heads.dim + 2)]
        pieces += weights.mixtures.workspace_pieces(tokens)
        pieces += weights.latents.workspace_pieces(tokens)
        if weights.is_quantized:
            rows = tokens * weights.mixtures.chosen
            pieces.append(quantized_workspace_bytes(rows, self._widest, torch.get_num_threads()))
        return self._bytes_of(pieces)

    @property
    def _widest(self) -> int:
        """The most inputs of a product."""
        weights, heads = self.weights, self.heads
        behind = max(heads.kv_heads * heads.group * heads.dim, weights.inner, weights.mixers.behind)
        return int(max(behind, weights.hidden, weights.mixtures.widest, weights.latents.widest))

    @staticmethod
    def _bytes_of(pieces: Sequence[int]) -> int:
        """Return the bytes of pieces of a workspace, each of which begins at a cache line."""
        return int(sum(pieces)) + CACHE_LINE * len(pieces)

    def _extend_rope_tables(self, positions: int) -> None:
        """Extend the tables of cos and sin to at least so many positions."""
        if positions <= self._extended:
            return
        count = min(max(positions, 2 * self._extended), self.positions)
        rotation, of_model, dtype = self.weights.rotation, self.weights.model, self.heads.dtype
        of_model.positions = self._extended = count
        if self.weights.query_scale is not None:
            scales = self.weights.query_scale.at(torch.arange(count)).to(dtype).float().contiguous()
            of_model.query_scales = native.pointer(scales, torch.float32, count)
            self._query_scales = scales
        if rotation is None:
            return
        tables = []
        for number, table in enumerate(self.weights.tables):
            pair = rotation.tables(table, torch.zeros(1, dtype=dtype), count)
            tables.append(pair)
            of_model.cos[number], of_model.sin[number] = (
                native.pointer(some, torch.float32, count, rotation.rotated // 2) for some in pair
            )
        self._rope_tables = tables


def _own_pieces(seen: torch.Tensor) -> int:
    """Return how many pieces the own keys of tokens with more than one have together
    (kernels/own_pieces.h)."""
    return sum(-(-count // OWN_PIECE) for count in seen.tolist() if count > OWN_PIECE)


class _Windows:
    """From which places on the tokens of a pass see their keys, in the layers of each window of the
    model."""

    def __init__(self, layout: PassLayout, windows: Sequence[Window | None]) -> None:
        self.layout, self._kept = layout, list[Any]()  # what C has only the addresses of
        furthest = max(layout.positions)
        self.first = [
            None if window is None or furthest < window.size else self._first(window) for window in windows
        ]
        self.of_own = [None if first is None else self._of_own(first) for first in self.first]
        self.own = self._addresses(self.of_own)

    def _first(self, window: Window) -> torch.Tensor:
        return torch.tensor([window.first(at) for at in self.layout.positions], dtype=torch.int32)

    def _of_own(self, first: torch.Tensor) -> torch.Tensor:
        # of a row's own places
        begin = torch.tensor(self.layout.positions, dtype=torch.int32) - self.layout.place
        return (first - begin).clamp_(min=0)

    def of_prefix(self, use: PrefixUse) -> int:
        """Return the address of what the tokens that see a prefix see of it, by windows."""
        chosen = slice(None) if use.rows is None else use.rows
        return self._addresses(
            [None if first is None else (first[chosen] - use.start).clamp_(min=0) for first in self.first]
        )

    def of_span(self, first: int, last: int) -> int:
        """Return the same of a span of tokens."""
        return self._addresses([None if of_own is None else of_own[first:last] for of_own in self.of_own])

    def _addresses(self, firsts: list[torch.Tensor | None]) -> int:
        kept = [None if first is None else first.contiguous() for first in firsts]
        table = (ctypes.c_void_p * len(kept))(
            *[None if first is None else first.data_ptr() for first in kept]
        )
        self._kept += [kept, table]
        return ctypes.addressof(table)


def _parts(layout: PassLayout, count: int, windows: _Windows) -> list[SharedPart]:
    """Return what several tokens share: prefixes and spans."""
    parts = []
    for use in layout.uses:
        chosen = native.pointer_or_none(use.rows, torch.int64, use.count)
        row_of = native.pointer(use.row_of, torch.int32, count)
        keys = use.kv.store.table[0].data_ptr()
        parts.append(SharedPart(keys, use.kv.length, 0, chosen, 0, use.count, row_of, windows.of_prefix(use)))
    for span, rows in zip(layout.spans, layout.span_rows, strict=True):
        arena, row_of = (layout.own.table[span.slot].data_ptr(), native.pointer(rows, torch.int32, count))
        begin = windows.of_span(span.first, span.last)
        parts.append(
            SharedPart(arena, span.before + 1, 1, None, span.first, span.last - span.first, row_of, begin)
        )
    return parts
