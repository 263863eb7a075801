"""Computes attention over sequences whose keys and values are in the KV cache.

A forward pass reads each shared prefix once, not once per sequence.

One forward pass holds a flat list of tokens [1, T] of many sequences. A token attends to
its sequence's prefixes (one matmul per prefix for all its tokens), to earlier tokens of
its sequence in the same pass (a span), and to its sequence's own keys. In a layer with a
sliding window it attends only to keys inside the window. The partial results are joined
by their maxima and sums, so the result equals that of one softmax.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from runner_engine.attention.device_attention import (
    SpanBatches,
    attend_to_cached_keys,
    attend_to_prefix,
    attend_within_spans,
)
from runner_engine.attention.interface import PLAIN, Softmax
from runner_engine.attention.own_keys_attention import OwnKeyRanges, run_unshared_key_attention_kernel
from runner_engine.attention.partial_attention import (
    PartialAttention,
    Scaling,
    attend_to_unshared_keys,
    build_attention_sink_term,
    compute_unnormalized_attention,
    expand_heads_to_kv_shape,
    max_scores_in_memory,
    merge_groups_by_token,
    merge_partial_results,
)
from runner_engine.attention.shared_attention import SharedKeyRange, run_shared_key_attention_kernel
from runner_engine.kernels.native import Kernels
from runner_engine.kv_cache import KvCacheSpec, KvStore, SharedKv, SlotStore, Window


@dataclass
class PrefixUse:
    """A shared prefix, with the tokens of a forward pass that attend to the prefix."""

    kv: SharedKv
    rows: torch.Tensor | None  # [n] places in the pass; None = all tokens, in order
    # int32 [T]: a token's place among the rows, -1 = it does not see the prefix
    row_of: torch.Tensor
    count: int
    start: int = 0  # position of its first token in the texts
    first: torch.Tensor | None = (
        None  # int32 [count]: the first place within a token's window; None = all places
    )
    least: int = 0  # the smallest of `first`


@dataclass
class Span:
    """Adjacent tokens of one sequence in a forward pass.

    Each token attends to earlier tokens of the span and to the sequence's cached keys.
    """

    first: int
    last: int  # exclusive
    slot: int = 0
    before: int = 0  # own places that earlier passes filled


@dataclass
class WindowView:
    """What tokens attend to in the layers that have the same sliding window size: prefixes and positions."""

    uses: list[PrefixUse]
    first: torch.Tensor | None = (
        None  # int32 [T]: the first own place within a token's window; None = all places
    )
    firsts: list[int] = field(default_factory=list)  # the same as a list


@dataclass
class LayerAttention:
    """Attention settings of a layer in a forward pass: scale, softmax options and sliding window."""

    layer: int  # of the store
    scale: float
    softmax: Softmax
    view: WindowView

    @property
    def scaling(self) -> Scaling:
        return Scaling(self.scale, self.softmax.cap)


@dataclass
class PassLayout:
    """Maps the tokens of a forward pass to the KV cache.

    Tells where each token is stored, and which positions it attends to.
    """

    heads: KvCacheSpec
    kernels: Kernels | None
    own: KvStore  # where this pass stores keys and values: those of rows, or of the prefix that it reads
    slot: torch.Tensor  # int32 [T]
    place: torch.Tensor  # int32 [T]
    # int32 [T]: own keys that a token sees in its slot; 0 where a span provides them
    seen: torch.Tensor
    uses: list[PrefixUse] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    is_step: bool = False  # one token a slot, which sees its whole row
    # of the tokens in their texts, where layers have windows
    positions: list[int] = field(default_factory=list)
    _views: dict[Window, WindowView] = field(default_factory=dict)

    @cached_property
    def token_indices_per_span(self) -> list[torch.Tensor]:
        """Index of each token within each span, or -1 for tokens outside the span."""
        rows = [torch.full_like(self.slot, -1) for _ in self.spans]
        for span, row_of in zip(self.spans, rows, strict=True):
            row_of[span.first : span.last] = torch.arange(span.last - span.first, device=row_of.device)
        return rows

    @cached_property
    def _span_batches(self) -> SpanBatches:
        return SpanBatches.from_spans(
            [(span.first, span.last) for span in self.spans], len(self.slot), self.slot.device
        )

    # Reading a number from a GPU waits for the GPU, so this is computed once a pass and not in each
    # layer.
    @cached_property
    def max_visible_keys(self) -> int:
        """Largest number of keys that a token attends to, excluding shared prefixes."""
        return int(self.seen.max())

    @cached_property
    def is_in_slot_order(self) -> bool:
        return bool((self.slot == torch.arange(len(self.slot), device=self.slot.device)).all())

    def _get_window_view_of_layer(self, layer: int) -> WindowView:
        window = self.heads.windows[layer] if self.heads.windows else None
        if window is None or self._max_position < window.size:
            return WindowView(self.uses)
        if window not in self._views:
            self._views[window] = self._build_window_view(window)
        return self._views[window]

    @cached_property
    def _max_position(self) -> int:
        return max(self.positions)

    def _build_window_view(self, window: Window) -> WindowView:
        """Return the prefixes and positions that each token attends to within a sliding window.

        Prefixes before all windows are omitted.
        """
        positions = self.positions, [window.first_position(at) for at in self.positions]
        position, first = torch.tensor(positions, dtype=torch.int32, device=self.place.device)
        uses = []
        for use in self.uses:
            within = ((first if use.rows is None else first[use.rows]) - use.start).clamp_(min=0)
            least = int(within.min())
            if least < use.kv.length:
                uses.append(replace(use, first=within, least=least))
        # a row's own places begin after its prefixes
        own = (first - (position - self.place)).clamp_(min=0)
        return WindowView(uses, own, own.tolist())

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float,
        softmax: Softmax = PLAIN,
    ) -> torch.Tensor:  # fmt: skip
        """Return the attention outputs [T, H, D] of one layer.

        query is [H, T, D]; key and value are [KVH, T, D].
        """
        width = value.shape[-1]
        query, key, value = (
            self.heads.apply_hadamard_rotation_if_enabled(some, self.kernels)
            for some in expand_heads_to_kv_shape(self.heads, query, key, value)
        )
        attention = LayerAttention(
            self.heads.store_layer(layer), scale, softmax, self._get_window_view_of_layer(layer)
        )
        result = self.heads.apply_hadamard_rotation_if_enabled(
            self._compute_attention_on_padded_heads(attention, query, key, value), self.kernels
        )
        return result if width == self.heads.dim else result[..., :width]

    def _compute_attention_on_padded_heads(
        self, attention: LayerAttention, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """Compute attention on heads that are padded to the KV store's number and width of heads."""
        layer = attention.layer
        self.heads.check_layer(layer)
        query = query if query.stride(2) == 1 else query.contiguous()
        new = (key.transpose(0, 1).contiguous(), value.transpose(0, 1).contiguous())
        if self.kernels is None or not self.is_step:  # else the attention kernel stores them
            self.own.write(layer, *new, self.slot, self.place)
        if self.kernels is not None:
            return _attend_to_unshared_keys_and_merge(
                self, attention, query, new, _compute_attention_to_shared_keys(self, attention, query)
            )
        heads = self.heads
        # head h reads key-value head h // G
        grouped = query.view(heads.kv_heads, heads.group, -1, heads.dim)
        by_sdpa = heads.by_sdpa and not attention.softmax.cap and attention.view.first is None
        parts = []
        for use in attention.view.uses:
            chosen = grouped if use.rows is None else grouped[:, :, use.rows]
            keys, values = (some[:, use.least :] for some in use.kv.read(layer))
            first = None if use.first is None else (use.first - use.least).repeat_interleave(heads.group)
            chosen = merge_groups_by_token(chosen)
            if by_sdpa:
                part = attend_to_prefix(attention.scaling, chosen, keys, values)
            else:
                part = compute_unnormalized_attention(attention.scaling, chosen, keys, values, first, None)
            parts.append(PartialAttention(*part, use.row_of, use.count))
        if self.spans:
            if heads.is_quantized:  # a span's tokens see each other's keys as later tokens will
                key, value = self._simulate_kv_cache_rounding(layer, key, value)
            if by_sdpa:
                parts += self._attend_spans_with_sdpa(attention, query, key, value)
            else:
                parts.append(_attend_within_spans(self, attention, grouped, key, value))
        return _attend_to_unshared_keys_and_merge(self, attention, query, new, parts)

    def _simulate_kv_cache_rounding(
        self, layer: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        read = self.heads.decode_kv(layer, *self.heads.encode_kv(layer, key, value))
        if not self.heads.num_unquantized_first:
            return read
        assert isinstance(self.own, SlotStore)
        is_first = self.own.first.unquantized_mask(self.slot, self.place)[None, :, None]
        return key.where(is_first, read[0]), value.where(is_first, read[1])

    def _attend_spans_with_sdpa(
        self, attention: LayerAttention, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> list[PartialAttention]:
        """Compute attention within all spans in one SDPA call, then to cached keys for each span."""
        scaling = attention.scaling
        parts = [attend_within_spans(self.heads, scaling, self._span_batches, query, key, value)]
        for span, row_of in zip(self.spans, self.token_indices_per_span, strict=True):
            if span.before:
                earlier = self.own.read(attention.layer, span.slot, span.before)
                of_span = query[:, span.first : span.last]
                parts.append(attend_to_cached_keys(self.heads, scaling, of_span, *earlier, row_of))
        return parts


def _attend_within_spans(
    layout: PassLayout,
    attention: LayerAttention,
    grouped_query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
) -> PartialAttention:
    """Compute attention of a span's tokens to earlier tokens of the same sequence.

    Tokens outside spans get no result.
    """
    heads, tokens = layout.heads, grouped_query.shape[2]
    rows = tokens * heads.group
    out = key.new_zeros(heads.kv_heads, rows, heads.dim, dtype=torch.float32)
    top = torch.full((heads.kv_heads, rows), -math.inf, dtype=torch.float32, device=key.device)
    total = torch.zeros(heads.kv_heads, rows, dtype=torch.float32, device=key.device)
    row_of = torch.full((tokens,), -1, dtype=torch.int32, device=key.device)
    for span in layout.spans:
        keys, values = key[:, span.first : span.last], value[:, span.first : span.last]
        if span.before:
            earlier = layout.own.read(attention.layer, span.slot, span.before)
            keys, values = (torch.cat((earlier[0], keys), dim=1), torch.cat((earlier[1], values), dim=1))
        step = max(max_scores_in_memory(key) // (heads.kv_heads * heads.group * keys.shape[1]), 16)
        for first in range(span.first, span.last, step):
            last = min(first + step, span.last)
            reach = span.before + last - span.first  # none of these tokens sees later keys
            view = attention.view
            least = view.firsts[first] if view.firsts else 0  # no token sees earlier keys, either
            limit = torch.arange(
                span.before + first - span.first + 1, reach + 1, dtype=torch.int32, device=key.device
            )
            firsts = None if view.first is None else view.first[first:last]
            ends = [
                None if some is None else (some - least).repeat_interleave(heads.group)
                for some in (firsts, limit)
            ]
            at = slice(first * heads.group, last * heads.group)
            chosen = merge_groups_by_token(grouped_query[:, :, first:last])
            out[:, at], top[:, at], total[:, at] = compute_unnormalized_attention(
                attention.scaling, chosen, keys[:, least:reach], values[:, least:reach], *ends
            )
        row_of[span.first : span.last] = torch.arange(span.first, span.last, device=key.device)
    return PartialAttention(out, top, total, row_of, tokens)


def _compute_attention_to_shared_keys(
    layout: PassLayout, attention: LayerAttention, query: torch.Tensor
) -> list[PartialAttention]:
    parts, view = [], attention.view
    for use in view.uses:
        parts.append(
            _compute_attention_to_slot_keys(
                layout,
                attention,
                query,
                use.rows,
                use.row_of,
                use.count,
                use.kv.store,
                0,
                use.kv.length,
                use.first,
            )
        )
    for span, row_of in zip(layout.spans, layout.token_indices_per_span, strict=True):
        at = slice(span.first, span.last)
        first, sees = None if view.first is None else view.first[at], span.before + 1
        count = span.last - span.first
        parts.append(
            _compute_attention_to_slot_keys(
                layout,
                attention,
                query[:, at],
                None,
                row_of,
                count,
                layout.own,
                span.slot,
                sees,
                first,
                is_causal=True,
            )
        )
    return parts


def _compute_attention_to_slot_keys(
    layout: PassLayout, attention: LayerAttention, query: torch.Tensor,
    token_indices: torch.Tensor | None, indices_in_result: torch.Tensor, num_tokens: int,
    store: KvStore, slot: int, num_visible: int, first_positions: torch.Tensor | None, is_causal: bool = False,
) -> PartialAttention:  # fmt: skip
    """Compute attention of tokens [H, T, D] to the first `num_visible` positions of a KV slot.

    token_indices: the tokens that attend; None means all. is_causal: each token attends to one
    position more than the token before.
    """
    assert layout.kernels is not None
    places = SharedKeyRange(store, slot, num_visible, is_causal)
    result = run_shared_key_attention_kernel(
        layout.kernels,
        layout.heads,
        attention.scaling,
        attention.layer,
        query,
        token_indices,
        num_tokens,
        places,
        first_positions,
    )
    return PartialAttention(*result, indices_in_result, num_tokens)


def _attend_to_unshared_keys_and_merge(
    layout: PassLayout,
    attention: LayerAttention,
    query: torch.Tensor,
    new_kv: tuple[torch.Tensor, torch.Tensor],
    partial_results: list[PartialAttention],
) -> torch.Tensor:
    """Compute attention to the unshared keys of each sequence, and merge it with the partial results.

    Returns [T, H, D].
    """
    heads, own, layer = layout.heads, layout.own, attention.layer
    first, sinks = attention.view.first, attention.softmax.sinks
    query = query.transpose(0, 1).contiguous()
    tokens = query.shape[0]
    if layout.kernels is not None:
        places = OwnKeyRanges(own, layout.slot, layout.seen, first)
        stored = new_kv if layout.is_step else None
        return run_unshared_key_attention_kernel(
            layout.kernels, heads, attention.scaling, layer, query, places, partial_results, stored, sinks
        )
    assert isinstance(own, SlotStore)
    query = query.view(tokens, heads.kv_heads, heads.group, heads.dim)
    shape = (tokens, heads.kv_heads, heads.group)
    terms = [part.expand_attention_to_all_tokens(heads) for part in partial_results]
    if longest := layout.max_visible_keys:
        slots: slice | torch.Tensor = slice(tokens) if layout.is_in_slot_order else layout.slot.long()
        keys, values = own.read_kv_slots(layer, slots, longest)
        terms.append(attend_to_unshared_keys(attention.scaling, query, keys, values, layout.seen, first))
    if sinks is not None:
        terms.append(build_attention_sink_term(sinks, shape, heads.dim))
    return merge_partial_results(terms, query.dtype)
