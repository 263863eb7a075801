"""Attention over rows of a KV cache: what they share is read once a pass and not once a row.

One forward pass holds a flat list of tokens [1, T] of many rows. A token attends to the prefixes that its row stands
on, all rows of a prefix in one product; to earlier tokens of its own row in the same pass (a span); and to its row's
own keys; of all these, where a layer has a window, only what is within it. The outcomes are joined by their maxima and
sums, as if it had been one softmax.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from runner.engines.local.interface import PLAIN, Softmax
from runner.engines.local.kernels.native import Kernels
from runner.engines.local.kv_cache import Heads, OwnKv
from runner.engines.local.parts import PartialAttention, by_token, or_zero, over_keys, scores_of, wide_bmm, within_spans
from runner.engines.local.shared_kv import SharedKv
from runner.engines.local.slots import Slots
from runner.engines.local.windows import Window


@dataclass
class Use:
    """A prefix and the tokens of a pass that see it; rows None = all of them, in order."""

    kv: SharedKv
    rows: torch.Tensor | None  # [n] places in the pass
    row_of: torch.Tensor  # int32 [T]: a token's place among the rows, -1 = does not see it
    count: int
    start: int = 0  # position of its first token in the texts
    first: torch.Tensor | None = None  # int32 [count]: the first of its places within a token's window; None = all are
    least: int = 0  # of these


@dataclass
class Span:
    """Neighbouring tokens of one row: each sees those before it, and what the row had before the pass."""

    first: int
    last: int  # one behind the last
    slot: int = 0
    before: int = 0  # own places filled by earlier passes


@dataclass
class WindowView:
    """What the tokens of a pass see in the layers of one window."""

    uses: list[Use]
    first: torch.Tensor | None = None  # int32 [T]: the first own place within a token's window; None = all are
    firsts: list[int] = field(default_factory=list)  # the same


@dataclass
class LayerAttention:
    """One layer of a pass: what its attention minds besides queries, keys and values."""

    layer: int
    scale: float
    softmax: Softmax
    view: WindowView


@dataclass
class PassLayout:
    """What attention must know of the tokens of one forward pass."""

    heads: Heads
    kernels: Kernels | None
    own: OwnKv  # where this pass puts keys and values: of rows, or of the prefix that is being read
    slot: torch.Tensor  # int32 [T]
    place: torch.Tensor  # int32 [T]
    seen: torch.Tensor  # int32 [T]: own keys that a token sees in its slot; 0 where a span provides them
    uses: list[Use] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    is_step: bool = False  # one token a slot, which sees all of its row
    positions: list[int] = field(default_factory=list)  # of the tokens in their texts, where layers have windows
    _views: dict[Window, WindowView] = field(default_factory=dict)

    @cached_property
    def span_rows(self) -> list[torch.Tensor]:
        """For each span: a token's place in it, -1 = is not of it."""
        rows = [torch.full_like(self.slot, -1) for _ in self.spans]
        for span, row_of in zip(self.spans, rows, strict=True):
            row_of[span.first : span.last] = torch.arange(span.last - span.first, dtype=torch.int32)
        return rows

    # A GPU is waited for where a number is read off it, so this is asked once a pass and not in each layer.
    @cached_property
    def longest(self) -> int:
        """The most own keys that a token sees in its slot."""
        return int(self.seen.max())

    @cached_property
    def lies_in_order(self) -> bool:
        """Whether token t is of slot t: then no row of the store need be copied."""
        return bool((self.slot == torch.arange(len(self.slot), device=self.slot.device)).all())

    def _view(self, layer: int) -> WindowView:
        """Return what the tokens see in a layer."""
        window = self.heads.windows[layer] if self.heads.windows else None
        if window is None or self._furthest < window.size:
            return WindowView(self.uses)
        if window not in self._views:
            self._views[window] = self._through(window)
        return self._views[window]

    @cached_property
    def _furthest(self) -> int:
        return max(self.positions)

    def _through(self, window: Window) -> WindowView:
        """Return what the tokens see through a window; a prefix that is behind all their windows is left out."""
        positions = self.positions, [window.first(position) for position in self.positions]
        here, first = torch.tensor(positions, dtype=torch.int32, device=self.place.device)
        uses = []
        for use in self.uses:
            within = ((first if use.rows is None else first[use.rows]) - use.start).clamp_(min=0)
            least = int(within.min())
            if least < use.kv.length:
                uses.append(replace(use, first=within, least=least))
        own = (first - (here - self.place)).clamp_(min=0)  # a row's own places begin behind its prefixes
        return WindowView(uses, own, own.tolist())

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float,
        softmax: Softmax = PLAIN,
    ) -> torch.Tensor:  # fmt: skip
        """Return [T, H, D] for query [H, T, D], key and value [KVH, T, D] of one layer."""
        width = value.shape[-1]
        query, key, value = _fitted(self.heads, query, key, value)
        turn = LayerAttention(layer, scale, softmax, self._view(layer))
        result = self._attend(turn, query, key, value)
        return result if width == self.heads.dim else result[..., :width]

    def _attend(
        self, turn: LayerAttention, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """As attend, for heads that are as the store's."""
        layer = turn.layer
        query = query if query.stride(2) == 1 else query.contiguous()
        new = (key.transpose(0, 1).contiguous(), value.transpose(0, 1).contiguous())
        if self.kernels is None or not self.is_step:  # else the kernel puts them in its way past
            self.own.write(layer, *new, self.slot, self.place)
        if self.kernels is not None and self.kernels.has_shared:
            return _join(self, turn, query, new, _tiled(self, turn, query))
        heads = self.heads
        grouped = query.view(heads.kv_heads, heads.group, -1, heads.dim)  # head h reads key-value head h // G
        parts = []
        for use in turn.view.uses:
            chosen = grouped if use.rows is None else grouped[:, :, use.rows]
            keys, values = (some[:, use.least :] for some in use.kv.read(layer))
            first = None if use.first is None else (use.first - use.least).repeat_interleave(heads.group)
            part = over_keys(self, turn, by_token(chosen), keys, values, first, None)
            parts.append(PartialAttention(*part, use.row_of, use.count))
        if self.spans:
            parts.append(within_spans(self, turn, grouped, key, value))
        return _join(self, turn, query, new, parts)


def _fitted(heads: Heads, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> list[torch.Tensor]:
    """Return heads that are as many and as wide as the store's: zeros behind what is narrower change no product."""
    if repeat := heads.kv_heads // key.shape[0] - 1:  # other layers have more: fewer query heads stand on each
        key, value = (some.repeat_interleave(repeat + 1, dim=0) for some in (key, value))
    return [
        some if some.shape[-1] == heads.dim else torch.nn.functional.pad(some, (0, heads.dim - some.shape[-1]))
        for some in (query, key, value)
    ]


def _tiled(what: PassLayout, turn: LayerAttention, query: torch.Tensor) -> list[PartialAttention]:
    """Attend to prefixes and within spans by the kernel that goes tile by tile, and holds no scores."""
    parts, view = [], turn.view
    for use in view.uses:
        parts.append(
            _tiles(what, turn, query, use.rows, use.row_of, use.count, use.kv.store, 0, use.kv.length, use.first)
        )
    for span, row_of in zip(what.spans, what.span_rows, strict=True):
        at = slice(span.first, span.last)
        first, sees = None if view.first is None else view.first[at], span.before + 1
        count = span.last - span.first
        parts.append(
            _tiles(what, turn, query[:, at], None, row_of, count, what.own, span.slot, sees, first, causal=True)
        )
    return parts


def _tiles(
    what: PassLayout, turn: LayerAttention, query: torch.Tensor, chosen: torch.Tensor | None, row_of: torch.Tensor,
    count: int,
    store: OwnKv, slot: int, sees: int, first: torch.Tensor | None, causal: bool = False,
) -> PartialAttention:  # fmt: skip
    """Attend [H, T, D], or the chosen of these tokens, to the places of a slot from `first` on, to as many as it says.

    causal: each token sees one more than the one before.
    """
    assert what.kernels is not None
    heads, rows = what.heads, count * what.heads.group
    out = torch.empty(heads.kv_heads, rows, heads.dim, dtype=heads.dtype)
    top, total = (torch.empty(heads.kv_heads, rows, dtype=torch.float32) for _ in range(2))
    what.kernels(
        "attend_shared", heads.dtype, query.data_ptr(), query.stride(0), query.stride(1),
        None if chosen is None else chosen.data_ptr(), count,
        store.table[slot].data_ptr(), turn.layer, heads.kv_heads, heads.group, heads.dim, sees, int(causal),
        None if first is None else first.data_ptr(), ctypes.c_float(turn.scale), ctypes.c_float(turn.softmax.cap),
        out.data_ptr(), top.data_ptr(), total.data_ptr(),
    )  # fmt: skip
    return PartialAttention(out, top, total, row_of, count)


def _join(
    what: PassLayout,
    turn: LayerAttention,
    query: torch.Tensor,
    new: tuple[torch.Tensor, torch.Tensor],
    parts: list[PartialAttention],
) -> torch.Tensor:
    """Attend to the rows' own keys, join that with the parts, and divide by the sums: [T, H, D]."""
    heads, own, layer = what.heads, what.own, turn.layer
    first, sinks = turn.view.first, turn.softmax.sinks
    query = query.transpose(0, 1).contiguous()
    tokens = query.shape[0]
    if what.kernels is not None:
        result = torch.empty_like(query)
        put = [tensor.data_ptr() for tensor in new] if what.is_step else [None, None]
        what.kernels(
            "attend", heads.dtype, query.data_ptr(), own.table.data_ptr(), *put, layer,
            heads.kv_heads, heads.group, heads.dim, tokens, what.slot.data_ptr(),
            None if first is None else first.data_ptr(), what.seen.data_ptr(),
            ctypes.c_float(turn.scale), ctypes.c_float(turn.softmax.cap), None if sinks is None else sinks.data_ptr(),
            len(parts),
            _array([part.out.data_ptr() for part in parts]),
            _array([part.top.data_ptr() for part in parts]),
            _array([part.sum.data_ptr() for part in parts]),
            _array([part.count for part in parts]),
            _array([part.row_of.data_ptr() for part in parts]),
            result.data_ptr(),
        )  # fmt: skip
        return result
    assert isinstance(own, Slots)
    query = query.view(tokens, heads.kv_heads, heads.group, heads.dim)
    shape = (tokens, heads.kv_heads, heads.group)
    terms = []
    for part in parts:
        rows = part.row_of.clamp(min=0).long()
        there = (part.row_of >= 0)[:, None, None]
        out = part.out.view(heads.kv_heads, -1, heads.group, heads.dim).transpose(0, 1)[rows].float()
        top = part.top.view(heads.kv_heads, -1, heads.group).transpose(0, 1)[rows].where(there, -math.inf)
        total = part.sum.view(heads.kv_heads, -1, heads.group).transpose(0, 1)[rows].where(there, 0.0)
        terms.append((out, top, total))
    if longest := what.longest:
        slots: slice | torch.Tensor = slice(tokens) if what.lies_in_order else what.slot.long()
        keys, values = own.keys[layer][slots, :, :longest], own.values[layer][slots, :, :longest]
        keys, values = keys.flatten(0, 1), values.flatten(0, 1)
        scores = scores_of(turn, query.flatten(0, 1), keys).view(*shape, longest)
        places = torch.arange(longest, device=query.device)[None, :]
        hidden = places >= what.seen[:, None]
        if first is not None:
            hidden |= places < first[:, None]
        scores.masked_fill_(hidden[:, None, None, :], -math.inf)
        top = scores.amax(dim=-1)
        scores.sub_(or_zero(top)[..., None]).exp_()
        weighted = wide_bmm(scores.to(values.dtype).flatten(0, 1), values)
        terms.append((weighted.view(*shape, heads.dim), top, scores.sum(dim=-1)))
    if sinks is not None:
        top = sinks.view(1, *shape[1:]).expand(shape)
        terms.append(
            (
                torch.zeros((), dtype=torch.float32, device=query.device).expand(*shape, heads.dim),
                top,
                torch.ones_like(top),
            )
        )
    best = torch.stack([top for _, top, _ in terms]).amax(dim=0)
    result = torch.zeros(*shape, heads.dim, dtype=torch.float32, device=query.device)
    total = torch.zeros(shape, dtype=torch.float32, device=query.device)
    for out, top, count in terms:
        weight = (top - best).exp()
        result += out.where((weight > 0)[..., None], 0.0) * weight[..., None]
        total += count * weight
    return (result / total[..., None]).to(query.dtype).view(tokens, -1, heads.dim)


def _array(numbers: list[int]) -> Any:
    return (ctypes.c_int64 * len(numbers))(*numbers) if numbers else None
