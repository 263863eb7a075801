"""Attention over rows of a KV cache: what they share is read once a pass and not once a row.

One forward pass holds a flat list of tokens [1, T] of many rows. A token attends to the prefixes that its row stands
on, all rows of a prefix in one product; to earlier tokens of its own row in the same pass (a span); and to its row's
own keys. The outcomes are joined by their maxima and sums, as if it had been one softmax. It is registered with
transformers' attention interface: the model's own code stays as it is.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from runner.engines.local.kernels.native import Kernels
from runner.engines.local.kv_cache import Heads, OwnKv
from runner.engines.local.shared_kv import SharedKv
from runner.engines.local.slots import Slots

NAME = "runner_scheduler"
SCORES = 4 * 2**20  # scores held at once; more would leave the caches, and memory behind
# what models hand to attention that changes nothing here; sliding windows are minded in engine.py
HARMLESS = {
    *("position_ids", "cache_position", "use_cache", "output_attentions", "dropout", "sliding_window"),
    "output_router_logits",  # handed through by mixtures of experts
}


@dataclass
class Use:
    """A prefix and the tokens of a pass that see it; rows None = all of them, in order."""

    kv: SharedKv
    rows: torch.Tensor | None  # [n] places in the pass
    row_of: torch.Tensor  # int32 [T]: a token's place among the rows, -1 = does not see it
    count: int


@dataclass
class Span:
    """Neighbouring tokens of one row: each sees those before it, and what the row had before the pass."""

    first: int
    last: int  # one behind the last
    slot: int = 0
    before: int = 0  # own places filled by earlier passes


@dataclass
class Pass:
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

    @cached_property
    def span_rows(self) -> list[torch.Tensor]:
        """For each span: a token's place in it, -1 = is not of it."""
        rows = [torch.full_like(self.slot, -1) for _ in self.spans]
        for span, row_of in zip(self.spans, rows, strict=True):
            row_of[span.first : span.last] = torch.arange(span.last - span.first, dtype=torch.int32)
        return rows

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Return [T, H, D] for query [H, T, D], key and value [KVH, T, D] of one layer."""
        query = query if query.stride(2) == 1 else query.contiguous()
        new = (key.transpose(0, 1).contiguous(), value.transpose(0, 1).contiguous())
        if self.kernels is None or not self.is_step:  # else the kernel puts them in its way past
            self.own.write(layer, *new, self.slot, self.place)
        if self.kernels is not None and self.kernels.has_shared:
            return _join(self, layer, query, new, _tiled(self, layer, query, scale), scale)
        heads = self.heads
        grouped = query.view(heads.kv_heads, heads.group, -1, heads.dim)  # head h reads key-value head h // G
        parts = []
        for use in self.uses:
            chosen = grouped if use.rows is None else grouped[:, :, use.rows]
            keys, values = use.kv.read(layer)
            parts.append(Part(*_part(self, _by_token(chosen), keys, values, scale, None), use.row_of, use.count))
        if self.spans:
            parts.append(_spans(self, layer, grouped, key, value, scale))
        return _join(self, layer, query, new, parts, scale)


@dataclass
class Part:
    """Attention over some of the keys: [KVH, n · G, D] not yet divided by the sums, maxima and sums [KVH, n · G]."""

    out: torch.Tensor
    top: torch.Tensor
    sum: torch.Tensor
    row_of: torch.Tensor
    count: int


Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]  # as Pass.attend
_attend: Attend | None = None  # of the forward pass that runs


@contextmanager
def running(model: Any, attend: Attend) -> Iterator[None]:
    """Have the model's layers attend by this function, for one forward pass."""
    global _attend
    settings = model.config.get_text_config()
    before, _attend = settings._attn_implementation, attend
    settings._attn_implementation = NAME
    try:
        yield
    finally:
        settings._attn_implementation, _attend = before, None


def register() -> None:
    """Make the attention known to transformers."""
    from transformers import AttentionInterface  # imports torchao, which load_base has made quiet

    AttentionInterface.register(NAME, _attention)


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,  # noqa: ARG001  # a pass knows what its tokens see
    scaling: float | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Return [1, T, H, D] for query [1, H, T, D], key and value [1, KVH, T, D]."""
    assert _attend is not None
    odd = [name for name, given in more.items() if given is not None and name not in HARMLESS]
    if odd or query.shape[0] != 1:
        raise NotImplementedError(f"{type(module).__name__} passes {', '.join(odd) or 'a batch'} to its attention")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return _attend(module.layer_idx, query[0], key[0], value[0], scale)[None], None


def _tiled(what: Pass, layer: int, query: torch.Tensor, scale: float) -> list[Part]:
    """Attend to prefixes and within spans by the kernel that goes tile by tile, and holds no scores."""
    parts = []
    for use in what.uses:
        parts.append(_tiles(what, query, use.rows, use.row_of, use.count, use.kv.store, layer, 0, use.kv.length, scale))
    for span, row_of in zip(what.spans, what.span_rows, strict=True):
        count, some = span.last - span.first, query[:, span.first : span.last]
        sees = span.before + 1
        parts.append(_tiles(what, some, None, row_of, count, what.own, layer, span.slot, sees, scale, causal=True))
    return parts


def _tiles(
    what: Pass, query: torch.Tensor, chosen: torch.Tensor | None, row_of: torch.Tensor, count: int,
    store: OwnKv, layer: int, slot: int, sees: int, scale: float, causal: bool = False,
) -> Part:  # fmt: skip
    """Attend [H, T, D], or the chosen of these tokens, to the first places of a slot; causal: each to one more."""
    assert what.kernels is not None
    heads, rows = what.heads, count * what.heads.group
    out = torch.empty(heads.kv_heads, rows, heads.dim, dtype=heads.dtype)
    top, total = torch.empty(heads.kv_heads, rows), torch.empty(heads.kv_heads, rows)
    what.kernels(
        "shared", heads.dtype, query.data_ptr(), query.stride(0), query.stride(1),
        None if chosen is None else chosen.data_ptr(), count,
        store.table[slot].data_ptr(), layer, heads.kv_heads, heads.group, heads.dim,
        sees, int(causal), ctypes.c_float(scale), out.data_ptr(), top.data_ptr(), total.data_ptr(),
    )  # fmt: skip
    return Part(out, top, total, row_of, count)


def _by_token(grouped: torch.Tensor) -> torch.Tensor:
    """[KVH, G, n, D] to [KVH, n · G, D]."""
    return grouped.transpose(1, 2).reshape(grouped.shape[0], -1, grouped.shape[-1])


def _part(
    what: Pass, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float, limit: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Attend [KVH, N, D] to keys and values [KVH, L, D]; limit [N] int32: how many of the keys each row sees."""
    kv_heads, rows, _ = query.shape
    step = max(SCORES // (kv_heads * keys.shape[1]), 64)
    if rows <= step:
        return _piece(what, query, keys, values, scale, limit)
    out = torch.empty_like(query, dtype=query.dtype if what.kernels else torch.float32)
    top, total = (torch.empty(kv_heads, rows, device=query.device) for _ in range(2))
    for first in range(0, rows, step):
        at = slice(first, first + step)
        some = None if limit is None else limit[at]
        out[:, at], top[:, at], total[:, at] = _piece(what, query[:, at], keys, values, scale, some)
    return out, top, total


def _piece(
    what: Pass, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float, limit: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Attend rows few enough for all their scores to be held at once."""
    if what.kernels is not None:
        scores = torch.bmm(query, keys.transpose(1, 2))  # [KVH, N, L]
        top = torch.empty(scores.shape[:2])
        total = torch.empty(scores.shape[:2])
        limits = None if limit is None else limit.repeat(scores.shape[0])
        what.kernels(
            "softmax", scores.dtype, scores.data_ptr(), scores.shape[0] * scores.shape[1], scores.shape[2],
            None if limits is None else limits.data_ptr(), ctypes.c_float(scale), top.data_ptr(), total.data_ptr(),
        )  # fmt: skip
        return torch.bmm(scores, values), top, total
    weights = _wide_bmm(query, keys.transpose(1, 2)).mul_(scale)  # [KVH, N, L]
    if limit is not None:
        hidden = torch.arange(keys.shape[1], device=limit.device)[None, :] >= limit[:, None]
        weights.masked_fill_(hidden, -math.inf)
    top = weights.amax(dim=-1)
    weights.sub_(top[..., None]).exp_()
    return _wide_bmm(weights.to(values.dtype), values), top, weights.sum(dim=-1)


def _wide_bmm(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return the products of matrices [B, N, M] in float32: float16 ends at 65,504, which sums go beyond."""
    if left.is_cuda and left.dtype in (torch.float16, torch.bfloat16):
        return torch.bmm(left, right, out_dtype=torch.float32)
    return torch.bmm(left.float(), right.float())


def _spans(what: Pass, layer: int, grouped: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> Part:
    """Attend the tokens of each span to those before them; tokens outside of spans have no row in the part."""
    heads, tokens = what.heads, grouped.shape[2]
    rows = tokens * heads.group
    out = key.new_zeros(heads.kv_heads, rows, heads.dim, dtype=key.dtype if what.kernels else torch.float32)
    top = torch.full((heads.kv_heads, rows), -math.inf, device=key.device)
    total = torch.zeros(heads.kv_heads, rows, device=key.device)
    row_of = torch.full((tokens,), -1, dtype=torch.int32, device=key.device)
    for span in what.spans:
        keys, values = key[:, span.first : span.last], value[:, span.first : span.last]
        if span.before:
            earlier = what.own.read(layer, span.slot, span.before)
            keys, values = torch.cat((earlier[0], keys), dim=1), torch.cat((earlier[1], values), dim=1)
        step = max(SCORES // (heads.kv_heads * heads.group * keys.shape[1]), 16)
        for first in range(span.first, span.last, step):
            last = min(first + step, span.last)
            reach = span.before + last - span.first  # later keys are seen by none of these
            limit = torch.arange(span.before + first - span.first + 1, reach + 1, dtype=torch.int32, device=key.device)
            at = slice(first * heads.group, last * heads.group)
            out[:, at], top[:, at], total[:, at] = _part(
                what, _by_token(grouped[:, :, first:last]), keys[:, :reach], values[:, :reach], scale,
                limit.repeat_interleave(heads.group),
            )  # fmt: skip
        row_of[span.first : span.last] = torch.arange(span.first, span.last, device=key.device)
    return Part(out, top, total, row_of, tokens)


def _join(
    what: Pass, layer: int, query: torch.Tensor, new: tuple[torch.Tensor, torch.Tensor], parts: list[Part], scale: float
) -> torch.Tensor:
    """Attend to the rows' own keys, join that with the parts, and divide by the sums: [T, H, D]."""
    heads, own = what.heads, what.own
    query = query.transpose(0, 1).contiguous()
    tokens = query.shape[0]
    if what.kernels is not None:
        result = torch.empty_like(query)
        put = [tensor.data_ptr() for tensor in new] if what.is_step else [None, None]
        what.kernels(
            "attend", heads.dtype, query.data_ptr(), own.table.data_ptr(), *put, layer,
            heads.kv_heads, heads.group, heads.dim, tokens, what.slot.data_ptr(), what.seen.data_ptr(),
            ctypes.c_float(scale), len(parts),
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
    longest = int(what.seen.max())
    if longest:
        slots = what.slot.long()
        whole = bool((slots == torch.arange(tokens, device=slots.device)).all())  # then no row need be copied
        keys = own.keys[layer][:tokens, :, :longest] if whole else own.keys[layer][slots, :, :longest]
        values = own.values[layer][:tokens, :, :longest] if whole else own.values[layer][slots, :, :longest]
        keys, values = keys.flatten(0, 1), values.flatten(0, 1)
        scores = _wide_bmm(query.flatten(0, 1), keys.transpose(1, 2)).mul_(scale).view(*shape, longest)
        hidden = torch.arange(longest, device=slots.device)[None, :] >= what.seen[:, None]
        scores.masked_fill_(hidden[:, None, None, :], -math.inf)
        top = scores.amax(dim=-1)
        scores.sub_(top.where(top.isfinite(), 0.0)[..., None]).exp_()
        weighted = _wide_bmm(scores.to(values.dtype).flatten(0, 1), values)
        terms.append((weighted.view(*shape, heads.dim), top, scores.sum(dim=-1)))
    best = torch.stack([top for _, top, _ in terms]).amax(dim=0)
    result = torch.zeros(*shape, heads.dim, device=query.device)
    total = torch.zeros(shape, device=query.device)
    for out, top, count in terms:
        weight = (top - best).exp()
        result += out.where((weight > 0)[..., None], 0.0) * weight[..., None]
        total += count * weight
    return (result / total[..., None]).to(query.dtype).view(tokens, -1, heads.dim)


def _array(numbers: list[int]) -> Any:
    return (ctypes.c_int64 * len(numbers))(*numbers) if numbers else None
