"""Fused forward pass: one C call that computes all layers of a decoder (kernels/fused_forward.h).

Each torch operation costs time in Python, starts and ends a parallel region, and writes
memory that the next one reads. With a small model or pass, that takes as long as the
arithmetic. The model is described by its parts (layouts/, fused_weights.py), and then its
logits are compared with those of its own forward pass.
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
from runner_engine.checkpoints.pass_memory import compute_quantized_workspace_nbytes
from runner_engine.decode.fused_weights import FusedWeights, NotFusable
from runner_engine.kernels import native
from runner_engine.kernels.c_interface import (
    CACHE_LINE,
    LAYER_PHASES,
    OWN_PIECE,
    PHASE_BYTES,
    FusedTokens,
    SharedPart,
)
from runner_engine.kernels.matrix_structures import PRODUCT_PHASES
from runner_engine.kv_cache import KvCacheSpec, Window
from runner_engine.matmul import ExpertLayer, LayerWeights

FIRST_POSITIONS = 1024  # of RoPE's table at first; it grows with the rows


class FusedForward:
    """A model whose whole forward pass runs in C, with its weights and RoPE tables."""

    def __init__(
        self,
        model: Any,
        kv_spec: KvCacheSpec,
        max_positions: int,
        kernels: native.Kernels,
        packed_layers: Mapping[nn.Module, LayerWeights],
        expert_layers: Mapping[nn.Module, ExpertLayer] = MappingProxyType({}),
    ) -> None:
        """Build the C structures of a model.

        Raises NotFusable if the C kernels do not support one of its parts.

        max_positions: how many positions RoPE supports. packed_layers, expert_layers: as in
        FusedWeights.
        """
        self.heads, self.kernels, self.positions = kv_spec, kernels, max_positions
        self._rope_tables: list[tuple[torch.Tensor, torch.Tensor]] = []  # cos and sin
        self._query_scales: torch.Tensor | None = None  # of positions
        self._extended = 0  # their positions
        self.after_pass: Callable[[int], object] = int  # is told of a pass's tokens
        try:
            with torch.inference_mode():
                self.weights = FusedWeights(model, kv_spec, kernels, packed_layers, expert_layers)
            self.positions = min(max_positions, self.weights.positions or max_positions)
            self._extend_rope_tables(min(FIRST_POSITIONS, self.positions))
        except (AttributeError, TypeError, IndexError) as error:
            raise NotFusable(f"it has no such parts: {error}") from error
        self.is_quantized, self.is_by_row = self.weights.is_quantized, self.weights.is_by_row

    @property
    def num_layers(self) -> int:
        """Number of layers that a forward pass runs. Only tests run fewer layers than the model has."""
        return int(self.weights.model.layers)

    @contextmanager
    def limit_forward_to_first_layers(self, model: Any, max_layers: int) -> Iterator[None]:
        """Context manager that limits forward passes, in C and in PyTorch, to the model's first layers."""
        weights, settings, layers = self.weights, model.config.get_text_config(), self.num_layers
        body, name, own = weights.body, weights.name_of_layers, settings.num_hidden_layers
        all_blocks = getattr(body, name)
        blocks = sum(weights.blocks[:max_layers])
        try:
            weights.model.layers = min(max_layers, layers)
            if not weights.streams.input_width:  # else the number is the length of each token's inputs
                settings.num_hidden_layers = blocks
            setattr(body, name, all_blocks[:blocks])  # not all families look at the number
            yield
        finally:
            weights.model.layers, settings.num_hidden_layers = layers, own
            setattr(body, name, all_blocks)

    def supports_tokens(self, token_ids: list[int], positions: list[int]) -> bool:
        return max(positions) < self.positions and not self.weights.other_tokens.contain_any(token_ids)

    def __call__(
        self,
        layout: PassLayout,
        token_ids: list[int],
        positions: list[int],
        logit_indices: list[int] | None,
        hidden_states: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the logits [n, V] of the tokens at `logit_indices`, or of all tokens if it is None.

        hidden_states: a [tokens, width] buffer that is filled with the lm_head's inputs.
        """
        self._extend_rope_tables(max(positions) + 1)
        weights, count = self.weights, len(token_ids)
        pointer, int32 = native.get_tensor_address, torch.int32
        input_rows = weights.streams.look_up_layer_inputs(token_ids)
        kept = range(count) if logit_indices is None else logit_indices
        if weights.unpack_rows is not None:
            with torch.inference_mode():
                rows = weights.unpack_rows(torch.tensor(token_ids))
            weights.model.embedding, weights.model.embedding_rows, token_ids = (
                rows.data_ptr(),
                count,
                list(range(count)),
            )
        # not tensors: after a pass, whose weights fill all caches, each call of torch takes long
        numbers = (ctypes.c_int32 * (2 * count + len(kept)))(*token_ids, *positions, *kept)
        of_numbers = (
            ctypes.addressof(numbers) + ctypes.sizeof(ctypes.c_int32) * at for at in (0, count, 2 * count)
        )
        at_ids, at_positions, at_kept = of_numbers
        layout.positions = positions
        windows = _WindowStarts(layout, weights.windows)
        parts = _build_shared_kv_structs(layout, count, windows)
        pieces = _count_unshared_pieces(layout.seen) if max(positions) >= OWN_PIECE else 0
        adapted = weights.adapters.group_tokens_by_adapter(count)
        needed = self._compute_forward_workspace_nbytes(count, [part.tokens for part in parts], pieces)
        needed += self._aligned_nbytes(
            weights.adapters.compute_workspace_sizes(adapted, self._max_matmul_input_width)
        )
        workspace = torch.empty(needed, dtype=torch.uint8)
        apart = [
            torch.empty(count, weights.hidden, dtype=self.heads.dtype)
            for _ in range(2 * self.has_separate_mlps)
        ]
        logits = torch.empty(len(kept), weights.vocabulary, dtype=self.heads.dtype)
        part_list = (SharedPart * len(parts))(*parts)
        tokens = FusedTokens(
            layout.own.address_table.data_ptr(),
            len(layout.own.address_table),
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
            weights.mixers.set_state_pointers(tokens, layout.own.states)
        if adapted is not None:
            tokens.adapted = ctypes.addressof(adapted)
        if input_rows is not None:
            tokens.input_rows = input_rows.data_ptr()
        if hidden_states is not None:
            tokens.hidden = native.get_tensor_address(hidden_states, self.heads.dtype, count, weights.hidden)
        self._run_layers(tokens, apart)
        self.after_pass(count)
        return logits

    def allocate_hidden_states(self, num_tokens: int) -> torch.Tensor:
        return torch.empty(num_tokens, self.weights.hidden, dtype=self.heads.dtype)

    @property
    def expert_counts(self) -> Mapping[nn.Module, torch.Tensor]:
        """Number of times that each expert was selected in forward passes, by expert module."""
        return self.weights.mixtures.counts

    @property
    def has_separate_mlps(self) -> bool:
        """Whether some MLPs run as PyTorch modules between two C calls."""
        return bool(self.weights.apart)

    def _run_layers(self, tokens: FusedTokens, mlp_buffers: Sequence[torch.Tensor]) -> None:
        """Run all layers in one C call, or in several C calls if some MLPs run as PyTorch modules."""
        for layer, mlp in self.weights.apart.items():
            if layer < self.num_layers:
                self._call_kernel(tokens)
                with torch.inference_mode():
                    done = mlp(mlp_buffers[0][None])
                mlp_buffers[1].copy_((done[0] if isinstance(done, tuple) else done).view_as(mlp_buffers[1]))
                tokens.first_layer = layer + 1
        self._call_kernel(tokens)

    def _call_kernel(self, tokens: FusedTokens) -> None:
        weights = self.weights
        self.kernels(
            "fused_forward",
            self.heads.dtype,
            ctypes.addressof(weights.model),
            ctypes.addressof(weights.layers),
            ctypes.addressof(tokens),
        )

    def _compute_forward_workspace_nbytes(
        self, num_tokens: int, shared_kv_tokens: list[int], num_unshared_pieces: int = 0
    ) -> int:
        """Return the workspace bytes of a forward pass.

        fused_forward.h computes the same number.
        """
        weights, heads, size = self.weights, self.heads, self.heads.dtype.itemsize
        queries, pairs = heads.kv_heads * heads.group, heads.kv_heads * heads.dim
        wide = queries * heads.dim
        phases = (
            len(weights.layers) * LAYER_PHASES + weights.mixers.count_phases(num_tokens) + PRODUCT_PHASES + 3
        )
        of_gates, of_mixers = wide * weights.has_query_gates, weights.mixers
        before = max(wide + of_gates + 2 * pairs, of_mixers.before)
        behind = max(wide, weights.inner, of_mixers.behind)
        pieces = [phases * PHASE_BYTES]
        pieces += [
            num_tokens * width * size for width in (weights.hidden, weights.hidden, before, behind, of_gates)
        ]
        pieces.append(of_mixers.compute_workspace_nbytes(num_tokens, size))
        pieces += [num_tokens * weights.hidden * size * weights.has_halves, num_tokens * weights.gates * size]
        pieces.append(num_tokens * weights.hidden * size * (weights.has_halves and of_mixers.count > 0))
        for count in shared_kv_tokens:
            pieces += [count * wide * size, count * queries * 4, count * queries * 4]
        pieces += [
            4 * num_unshared_pieces,
            4 * num_unshared_pieces,
            4 * num_unshared_pieces * queries * (heads.dim + 2),
        ]
        pieces += weights.mixtures.compute_workspace_sizes(num_tokens)
        pieces += weights.latents.compute_workspace_sizes(num_tokens)
        pieces += weights.streams.compute_workspace_sizes(num_tokens)
        if weights.is_quantized:
            rows = num_tokens * weights.mixtures.max_experts_per_token
            pieces.append(
                compute_quantized_workspace_nbytes(
                    rows, self._max_matmul_input_width, torch.get_num_threads()
                )
            )
        return self._aligned_nbytes(pieces)

    @property
    def _max_matmul_input_width(self) -> int:
        weights, heads = self.weights, self.heads
        behind = max(heads.kv_heads * heads.group * heads.dim, weights.inner, weights.mixers.behind)
        return int(
            max(
                behind,
                weights.hidden,
                weights.mixtures.max_inputs,
                weights.latents.max_inputs,
                weights.streams.max_inputs,
            )
        )

    @staticmethod
    def _aligned_nbytes(buffer_nbytes: Sequence[int]) -> int:
        """Return the total bytes of workspace buffers, each aligned to a cache line."""
        return int(sum(buffer_nbytes)) + CACHE_LINE * len(buffer_nbytes)

    def _extend_rope_tables(self, num_positions: int) -> None:
        """Extend the RoPE tables of cosines and sines to at least `num_positions` positions."""
        if num_positions <= self._extended:
            return
        count = min(max(num_positions, 2 * self._extended), self.positions)
        of_model, dtype = self.weights.model, self.heads.dtype
        of_model.positions = self._extended = count
        if self.weights.query_scale is not None:
            scales = self.weights.query_scale.compute_scales(torch.arange(count))
            if self.weights.query_scale.is_rounded:
                scales = scales.to(dtype)
            scales = scales.float().contiguous()
            of_model.query_scales = native.get_tensor_address(scales, torch.float32, count)
            self._query_scales = scales
        tables = []
        for number, (table, rotation) in enumerate(
            zip(self.weights.tables, self.weights.rotations, strict=True)
        ):
            if rotation is None:
                continue
            pair = rotation.build_tables(table, torch.zeros(1, dtype=dtype), count)
            tables.append(pair)
            of_model.cos[number], of_model.sin[number] = (
                native.get_tensor_address(some, torch.float32, count, rotation.rotated // 2) for some in pair
            )
        self._rope_tables = tables


def _count_unshared_pieces(num_visible: torch.Tensor) -> int:
    return sum(-(-count // OWN_PIECE) for count in num_visible.tolist() if count > OWN_PIECE)


class _WindowStarts:
    """The first position that each token attends to, for each sliding window size of the model."""

    def __init__(self, layout: PassLayout, windows: Sequence[Window | None]) -> None:
        self.layout, self._kept = layout, list[Any]()  # what C has only the addresses of
        furthest = max(layout.positions)
        self.first = [
            None if window is None or furthest < window.size else self._first_visible_positions(window)
            for window in windows
        ]
        self.of_own = [None if first is None else self._unshared_starts(first) for first in self.first]
        self.own = self._build_position_pointer_table(self.of_own)

    def _first_visible_positions(self, window: Window) -> torch.Tensor:
        return torch.tensor([window.first_position(at) for at in self.layout.positions], dtype=torch.int32)

    def _unshared_starts(self, first_positions: torch.Tensor) -> torch.Tensor:
        # of a row's own places
        begin = torch.tensor(self.layout.positions, dtype=torch.int32) - self.layout.place
        return (first_positions - begin).clamp_(min=0)

    def build_attended_prefix_start_table(self, prefix_use: PrefixUse) -> int:
        """Return the address of a C table with the first shared-prefix position that each token attends to.

        The table has one entry per sliding window.
        """
        chosen = slice(None) if prefix_use.rows is None else prefix_use.rows
        return self._build_position_pointer_table(
            [
                None if first is None else (first[chosen] - prefix_use.start).clamp_(min=0)
                for first in self.first
            ]
        )

    def build_span_table(self, first_token: int, last_token: int) -> int:
        """Return the address of a C table with the first unshared position that each span token attends to.

        The table has one entry per sliding window.
        """
        return self._build_position_pointer_table(
            [None if of_own is None else of_own[first_token:last_token] for of_own in self.of_own]
        )

    def _build_position_pointer_table(self, first_positions: list[torch.Tensor | None]) -> int:
        kept = [None if first is None else first.contiguous() for first in first_positions]
        table = (ctypes.c_void_p * len(kept))(
            *[None if first is None else first.data_ptr() for first in kept]
        )
        self._kept += [kept, table]
        return ctypes.addressof(table)


def _build_shared_kv_structs(layout: PassLayout, num_tokens: int, windows: _WindowStarts) -> list[SharedPart]:
    """Build the C structures for keys and values that several tokens attend to."""
    parts = []
    for use in layout.uses:
        chosen = native.get_optional_tensor_address(use.rows, torch.int64, use.count)
        row_of = native.get_tensor_address(use.row_of, torch.int32, num_tokens)
        keys = use.kv.store.address_table[0].data_ptr()
        parts.append(
            SharedPart(
                keys,
                use.kv.length,
                0,
                chosen,
                0,
                use.count,
                row_of,
                windows.build_attended_prefix_start_table(use),
            )
        )
    for span, rows in zip(layout.spans, layout.token_indices_per_span, strict=True):
        arena, row_of = (
            layout.own.address_table[span.slot].data_ptr(),
            native.get_tensor_address(rows, torch.int32, num_tokens),
        )
        begin = windows.build_span_table(span.first, span.last)
        parts.append(
            SharedPart(arena, span.before + 1, 1, None, span.first, span.last - span.first, row_of, begin)
        )
    return parts
