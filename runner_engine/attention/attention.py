"""Attention over rows of a KV cache: shared prefixes are read once a pass and not once a row.

One forward pass holds a flat list of tokens [1, T] of many rows. A token attends to the prefixes of
its row, all rows of a prefix in one product; to earlier tokens of its own row in the same pass (a
span); and to its row's own keys. Where a layer has a window, it attends only to keys within the
window. The partial results are joined by their maxima and sums, so the result equals that of one
softmax.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from runner_engine.attention.device_attention import (
    SpanBatches,
    attend_to_earlier,
    attend_to_prefix,
    attend_within_spans,
)
from runner_engine.attention.interface import PLAIN, Softmax
from runner_engine.attention.own_attention import OwnPlaces, attend_own
from runner_engine.attention.parts import (
    PartialAttention,
    Scaling,
    attend_to_keys,
    by_token,
    joined,
    most_scores,
    own_term,
    padded_heads,
    sinks_term,
)
from runner_engine.attention.shared_attention import SharedPlaces, attend_shared
from runner_engine.kernels.native import Kernels
from runner_engine.kv_cache import Heads, OwnKv, SharedKv, Slots, Window


@dataclass
class PrefixUse:
    """A prefix and the tokens of a pass that see it."""

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
    """Neighbouring tokens of one row: each sees those before it, and the row's keys from earlier
    passes."""

    first: int
    last: int  # exclusive
    slot: int = 0
    before: int = 0  # own places that earlier passes filled


@dataclass
class WindowView:
    """What the tokens of a pass see in the layers of one window."""

    uses: list[PrefixUse]
    first: torch.Tensor | None = (
        None  # int32 [T]: the first own place within a token's window; None = all places
    )
    firsts: list[int] = field(default_factory=list)  # the same as a list


@dataclass
class LayerAttention:
    """One layer of a pass: what its attention depends on besides queries, keys and values."""

    layer: int  # of the store
    scale: float
    softmax: Softmax
    view: WindowView

    @property
    def scaling(self) -> Scaling:
        """How the layer's scores are scaled and capped before the softmax."""
        return Scaling(self.scale, self.softmax.cap)


@dataclass
class PassLayout:
    """Where the tokens of one forward pass are in the KV cache, and what they see."""

    heads: Heads
    kernels: Kernels | None
    own: OwnKv  # where this pass stores keys and values: those of rows, or of the prefix that it reads
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
    def span_rows(self) -> list[torch.Tensor]:
        """For each span: a token's place in it, -1 = it is outside."""
        rows = [torch.full_like(self.slot, -1) for _ in self.spans]
        for span, row_of in zip(self.spans, rows, strict=True):
            row_of[span.first : span.last] = torch.arange(span.last - span.first, device=row_of.device)
        return rows

    @cached_property
    def _span_batches(self) -> SpanBatches:
        return SpanBatches.of(
            [(span.first, span.last) for span in self.spans], len(self.slot), self.slot.device
        )

    # Reading a number from a GPU waits for the GPU, so this is computed once a pass and not in each
    # layer.
    @cached_property
    def longest(self) -> int:
        """The largest number of own keys that a token sees."""
        return int(self.seen.max())

    @cached_property
    def is_in_slot_order(self) -> bool:
        """Whether token t has slot t: then no row of the store has to be copied."""
        return bool((self.slot == torch.arange(len(self.slot), device=self.slot.device)).all())

    def _view(self, layer: int) -> WindowView:
        """Return what the tokens see in a layer."""
        window = self.heads.windows[layer] if self.heads.windows else None
        if window is None or self._furthest < window.size:
            return WindowView(self.uses)
        if window not in self._views:
            self._views[window] = self._view_through(window)
        return self._views[window]

    @cached_property
    def _furthest(self) -> int:
        return max(self.positions)

    def _view_through(self, window: Window) -> WindowView:
        """Return what the tokens see through a window; a prefix that no token sees any more is left
        out."""
        positions = self.positions, [window.first(at) for at in self.positions]
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
        """Return [T, H, D] for query [H, T, D], key and value [KVH, T, D] of one layer."""
        width = value.shape[-1]
        query, key, value = (
            self.heads.turned(some, self.kernels) for some in padded_heads(self.heads, query, key, value)
        )
        attention = LayerAttention(self.heads.store_of(layer), scale, softmax, self._view(layer))
        result = self.heads.turned(self._attend(attention, query, key, value), self.kernels)
        return result if width == self.heads.dim else result[..., :width]

    def _attend(
        self, attention: LayerAttention, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """As `attend`, for heads of the store's number and width."""
        layer = attention.layer
        self.heads.check_layer(layer)
        query = query if query.stride(2) == 1 else query.contiguous()
        new = (key.transpose(0, 1).contiguous(), value.transpose(0, 1).contiguous())
        if self.kernels is None or not self.is_step:  # else the attention kernel stores them
            self.own.write(layer, *new, self.slot, self.place)
        if self.kernels is not None:
            return _join(self, attention, query, new, _shared_parts(self, attention, query))
        heads = self.heads
        # head h reads key-value head h // G
        grouped = query.view(heads.kv_heads, heads.group, -1, heads.dim)
        by_sdpa = heads.by_sdpa and not attention.softmax.cap and attention.view.first is None
        parts = []
        for use in attention.view.uses:
            chosen = grouped if use.rows is None else grouped[:, :, use.rows]
            keys, values = (some[:, use.least :] for some in use.kv.read(layer))
            first = None if use.first is None else (use.first - use.least).repeat_interleave(heads.group)
            chosen = by_token(chosen)
            if by_sdpa:
                part = attend_to_prefix(attention.scaling, chosen, keys, values)
            else:
                part = attend_to_keys(attention.scaling, chosen, keys, values, first, None)
            parts.append(PartialAttention(*part, use.row_of, use.count))
        if self.spans:
            if heads.in_bytes:  # a span's tokens see each other's keys as later tokens will
                key, value = self._as_read(layer, key, value)
            if by_sdpa:
                parts += self._span_parts(attention, query, key, value)
            else:
                parts.append(_attend_within_spans(self, attention, grouped, key, value))
        return _join(self, attention, query, new, parts)

    def _as_read(
        self, layer: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return new keys and values [KVH, T, D] as they are when they are read from the store."""
        read = self.heads.to_numbers(layer, *self.heads.to_stored(layer, key, value))
        if not self.heads.first_plain:
            return read
        assert isinstance(self.own, Slots)
        is_first = self.own.first.among(self.slot, self.place)[None, :, None]
        return key.where(is_first, read[0]), value.where(is_first, read[1])

    def _span_parts(
        self, attention: LayerAttention, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> list[PartialAttention]:
        """Attend within all spans at once, and for each span to its row's keys of earlier
        passes."""
        scaling = attention.scaling
        parts = [attend_within_spans(self.heads, scaling, self._span_batches, query, key, value)]
        for span, row_of in zip(self.spans, self.span_rows, strict=True):
            if span.before:
                earlier = self.own.read(attention.layer, span.slot, span.before)
                of_span = query[:, span.first : span.last]
                parts.append(attend_to_earlier(self.heads, scaling, of_span, *earlier, row_of))
        return parts


def _attend_within_spans(
    layout: PassLayout,
    attention: LayerAttention,
    grouped: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
) -> PartialAttention:
    """Attend the tokens of each span to those before them; tokens outside of spans have no row in
    the part."""
    heads, tokens = layout.heads, grouped.shape[2]
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
        step = max(most_scores(key) // (heads.kv_heads * heads.group * keys.shape[1]), 16)
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
            chosen = by_token(grouped[:, :, first:last])
            out[:, at], top[:, at], total[:, at] = attend_to_keys(
                attention.scaling, chosen, keys[:, least:reach], values[:, least:reach], *ends
            )
        row_of[span.first : span.last] = torch.arange(span.first, span.last, device=key.device)
    return PartialAttention(out, top, total, row_of, tokens)


def _shared_parts(
    layout: PassLayout, attention: LayerAttention, query: torch.Tensor
) -> list[PartialAttention]:
    """Attend to prefixes and within spans by the kernel that works in tiles and stores no
    scores."""
    parts, view = [], attention.view
    for use in view.uses:
        parts.append(
            _shared_part(
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
    for span, row_of in zip(layout.spans, layout.span_rows, strict=True):
        at = slice(span.first, span.last)
        first, sees = None if view.first is None else view.first[at], span.before + 1
        count = span.last - span.first
        parts.append(
            _shared_part(
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
                causal=True,
            )
        )
    return parts


def _shared_part(
    layout: PassLayout, attention: LayerAttention, query: torch.Tensor,
    chosen: torch.Tensor | None, row_of: torch.Tensor, count: int,
    store: OwnKv, slot: int, sees: int, first: torch.Tensor | None, causal: bool = False,
) -> PartialAttention:  # fmt: skip
    """Attend [H, T, D], or the chosen of these tokens, to the first `sees` places of a slot, from
    `first` on.

    causal: each token sees one place more than the one before.
    """
    assert layout.kernels is not None
    places = SharedPlaces(store, slot, sees, causal)
    result = attend_shared(
        layout.kernels, layout.heads, attention.scaling, attention.layer, query, chosen, count, places, first
    )
    return PartialAttention(*result, row_of, count)


def _join(
    layout: PassLayout,
    attention: LayerAttention,
    query: torch.Tensor,
    new: tuple[torch.Tensor, torch.Tensor],
    parts: list[PartialAttention],
) -> torch.Tensor:
    """Attend to the rows' own keys, join the result with the parts, and divide by the sums: [T, H,
    D]."""
    heads, own, layer = layout.heads, layout.own, attention.layer
    first, sinks = attention.view.first, attention.softmax.sinks
    query = query.transpose(0, 1).contiguous()
    tokens = query.shape[0]
    if layout.kernels is not None:
        places = OwnPlaces(own, layout.slot, layout.seen, first)
        stored = new if layout.is_step else None
        return attend_own(
            layout.kernels, heads, attention.scaling, layer, query, places, parts, stored, sinks
        )
    assert isinstance(own, Slots)
    query = query.view(tokens, heads.kv_heads, heads.group, heads.dim)
    shape = (tokens, heads.kv_heads, heads.group)
    terms = [part.term(heads) for part in parts]
    if longest := layout.longest:
        slots: slice | torch.Tensor = slice(tokens) if layout.is_in_slot_order else layout.slot.long()
        keys, values = own.numbers(layer, slots, longest)
        terms.append(own_term(attention.scaling, query, keys, values, layout.seen, first))
    if sinks is not None:
        terms.append(sinks_term(sinks, shape, heads.dim))
    return joined(terms, query.dtype)
