"""Attention over some of the keys that tokens see, by matrix products: where no kernel goes tile by tile."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from runner.engines.local.attention import LayerAttention, PassLayout

SCORES = {"cpu": 2**22, "cuda": 2**25}  # held at once: more would leave a CPU's caches; a GPU wants few large products


@dataclass
class PartialAttention:
    """Attention over some of the keys: [KVH, n · G, D] not yet divided by the sums, maxima and sums [KVH, n · G]."""

    out: torch.Tensor
    top: torch.Tensor
    sum: torch.Tensor
    row_of: torch.Tensor
    count: int


def by_token(grouped: torch.Tensor) -> torch.Tensor:
    """[KVH, G, n, D] to [KVH, n · G, D]."""
    return grouped.transpose(1, 2).reshape(grouped.shape[0], -1, grouped.shape[-1])


def over_keys(
    what: PassLayout, turn: LayerAttention, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor,
    first: torch.Tensor | None, limit: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Attend [KVH, N, D] to keys and values [KVH, L, D]; first, limit [N] int32: from where to where each row sees."""
    kv_heads, rows, _ = query.shape
    step = max(_most_scores(query) // (kv_heads * keys.shape[1]), 64)
    if rows <= step:
        return _piece(what, turn, query, keys, values, first, limit)
    out = torch.empty_like(query, dtype=query.dtype if what.kernels else torch.float32)
    top, total = (torch.empty(kv_heads, rows, dtype=torch.float32, device=query.device) for _ in range(2))
    for start in range(0, rows, step):
        at = slice(start, start + step)
        ends = (None if some is None else some[at] for some in (first, limit))
        out[:, at], top[:, at], total[:, at] = _piece(what, turn, query[:, at], keys, values, *ends)
    return out, top, total


def _most_scores(tensor: torch.Tensor) -> int:
    return SCORES.get(tensor.device.type, SCORES["cpu"])


def _piece(
    what: PassLayout, turn: LayerAttention, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor,
    first: torch.Tensor | None, limit: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Attend rows few enough for all their scores to be held at once."""
    if what.kernels is not None:
        scores = torch.bmm(query, keys.transpose(1, 2))  # [KVH, N, L]
        top = torch.empty(scores.shape[:2], dtype=torch.float32)
        total = torch.empty(scores.shape[:2], dtype=torch.float32)
        ends = [None if some is None else some.repeat(scores.shape[0]) for some in (first, limit)]
        what.kernels(
            "softmax", scores.dtype, scores.data_ptr(), scores.shape[0] * scores.shape[1], scores.shape[2],
            *(None if some is None else some.data_ptr() for some in ends),
            ctypes.c_float(turn.scale), ctypes.c_float(turn.softmax.cap), top.data_ptr(), total.data_ptr(),
        )  # fmt: skip
        return torch.bmm(scores, values), top, total
    weights = scores_of(turn, query, keys)  # [KVH, N, L]
    places = torch.arange(keys.shape[1], device=query.device)[None, :]
    if limit is not None:
        weights.masked_fill_(places >= limit[:, None], -math.inf)
    if first is not None:
        weights.masked_fill_(places < first[:, None], -math.inf)
    top = weights.amax(dim=-1)
    weights.sub_(or_zero(top)[..., None]).exp_()
    return wide_bmm(weights.to(values.dtype), values), top, weights.sum(dim=-1)


def scores_of(turn: LayerAttention, query: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Return the scores of queries [B, N, D] and keys [B, L, D] in float32, scaled and capped."""
    scores = wide_bmm(query, keys.transpose(1, 2)).mul_(turn.scale)
    cap = turn.softmax.cap
    return scores.div_(cap).tanh_().mul_(cap) if cap else scores


def or_zero(top: torch.Tensor) -> torch.Tensor:
    """Return maxima with 0 for those of no key: what has seen nothing must not become no number."""
    return top.where(top > -math.inf, 0.0)


def wide_bmm(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return the products of matrices [B, N, M] in float32: float16 ends at 65,504, which sums go beyond."""
    if left.is_cuda and left.dtype in (torch.float16, torch.bfloat16):
        return torch.bmm(left, right, out_dtype=torch.float32)
    return torch.bmm(left.float(), right.float())


def within_spans(
    what: PassLayout, turn: LayerAttention, grouped: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> PartialAttention:
    """Attend the tokens of each span to those before them; tokens outside of spans have no row in the part."""
    heads, tokens = what.heads, grouped.shape[2]
    rows = tokens * heads.group
    out = key.new_zeros(heads.kv_heads, rows, heads.dim, dtype=key.dtype if what.kernels else torch.float32)
    top = torch.full((heads.kv_heads, rows), -math.inf, dtype=torch.float32, device=key.device)
    total = torch.zeros(heads.kv_heads, rows, dtype=torch.float32, device=key.device)
    row_of = torch.full((tokens,), -1, dtype=torch.int32, device=key.device)
    for span in what.spans:
        keys, values = key[:, span.first : span.last], value[:, span.first : span.last]
        if span.before:
            earlier = what.own.read(turn.layer, span.slot, span.before)
            keys, values = torch.cat((earlier[0], keys), dim=1), torch.cat((earlier[1], values), dim=1)
        step = max(_most_scores(key) // (heads.kv_heads * heads.group * keys.shape[1]), 16)
        for first in range(span.first, span.last, step):
            last = min(first + step, span.last)
            reach = span.before + last - span.first  # later keys are seen by none of these
            least = turn.view.firsts[first] if turn.view.firsts else 0  # earlier keys are seen by none, either
            limit = torch.arange(span.before + first - span.first + 1, reach + 1, dtype=torch.int32, device=key.device)
            ends = [None if some is None else (some - least).repeat_interleave(heads.group)
                    for some in (None if turn.view.first is None else turn.view.first[first:last], limit)]  # fmt: skip
            at = slice(first * heads.group, last * heads.group)
            out[:, at], top[:, at], total[:, at] = over_keys(
                what, turn, by_token(grouped[:, :, first:last]), keys[:, least:reach], values[:, least:reach], *ends
            )
        row_of[span.first : span.last] = torch.arange(span.first, span.last, device=key.device)
    return PartialAttention(out, top, total, row_of, tokens)
