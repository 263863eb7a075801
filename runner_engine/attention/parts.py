"""Attention over some of the keys that tokens see, by torch's matrix products: where there are no
kernels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from runner_engine.kv_cache import Heads

# in memory at once: more would not fit a CPU's caches; on a GPU, few large products are faster
SCORES = {"cpu": 2**22, "cuda": 2**25}


# outputs [T, KVH, G, D]; maxima and sums [T, KVH, G]
Term = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Scaling:
    """How the product of a query and a key is scaled and capped before the softmax."""

    scale: float
    cap: float  # as in Softmax


@dataclass
class PartialAttention:
    """Attention over some keys: outputs [KVH, n · G, D] before division by the sums; maxima and
    sums [KVH, n · G]."""

    out: torch.Tensor
    top: torch.Tensor
    sum: torch.Tensor
    row_of: torch.Tensor
    count: int  # n

    def shape(self, heads: Heads) -> tuple[int, int]:
        """The shape that maxima and sums must have."""
        return heads.kv_heads, self.count * heads.group

    def term(self, heads: Heads) -> Term:
        """Return outputs, maxima and sums of every token of the pass; of one that has no row,
        nothing."""
        rows, has_row = self.row_of.clamp(min=0).long(), (self.row_of >= 0)[:, None, None]
        out = self.out.view(heads.kv_heads, -1, heads.group, heads.dim).transpose(0, 1)[rows].float()
        top, total = (
            some.view(heads.kv_heads, -1, heads.group).transpose(0, 1)[rows] for some in (self.top, self.sum)
        )
        return out, top.where(has_row, -math.inf), total.where(has_row, 0.0)


def by_token(grouped: torch.Tensor) -> torch.Tensor:
    """[KVH, G, n, D] to [KVH, n · G, D]."""
    return grouped.transpose(1, 2).reshape(grouped.shape[0], -1, grouped.shape[-1])


def attend_to_keys(
    scaling: Scaling, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor,
    first: torch.Tensor | None, limit: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Attend [KVH, N, D] to keys and values [KVH, L, D]; each row sees the keys from first [N] to
    limit [N]."""
    kv_heads, rows, _ = query.shape
    step = max(most_scores(query) // (kv_heads * keys.shape[1]), 64)
    if rows <= step:
        return _attend_rows(scaling, query, keys, values, first, limit)
    out = torch.empty_like(query, dtype=torch.float32)
    top, total = (torch.empty(kv_heads, rows, dtype=torch.float32, device=query.device) for _ in range(2))
    for start in range(0, rows, step):
        at = slice(start, start + step)
        ends = (None if some is None else some[at] for some in (first, limit))
        out[:, at], top[:, at], total[:, at] = _attend_rows(scaling, query[:, at], keys, values, *ends)
    return out, top, total


def own_term(
    scaling: Scaling, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor,
    seen: torch.Tensor, first: torch.Tensor | None,
) -> Term:  # fmt: skip
    """Attend [T, KVH, G, D] to the keys and values [T, KVH, L, D] of its row, from first [T] to
    seen."""
    shape, (keys, values) = query.shape, (keys.flatten(0, 1), values.flatten(0, 1))
    scores = scores_of(scaling, query.flatten(0, 1), keys).view(*shape[:3], -1)
    places = torch.arange(scores.shape[-1], device=query.device)[None, :]
    hidden = places >= seen[:, None]
    if first is not None:
        hidden |= places < first[:, None]
    scores.masked_fill_(hidden[:, None, None, :], -math.inf)
    top = scores.amax(dim=-1)
    scores.sub_(or_zero(top)[..., None]).exp_()
    weighted = wide_bmm(scores.to(values.dtype).flatten(0, 1), values)
    return weighted.view(shape), top, scores.sum(dim=-1)


def sinks_term(sinks: torch.Tensor, shape: tuple[int, int, int], dim: int) -> Term:
    """Return scores that take weight and have no value, for tokens [T, KVH, G]."""
    top = sinks.view(1, *shape[1:]).expand(shape)
    return (
        torch.zeros((), dtype=torch.float32, device=sinks.device).expand(*shape, dim),
        top,
        torch.ones_like(top),
    )


def joined(terms: list[Term], dtype: torch.dtype) -> torch.Tensor:
    """Join terms by their maxima and sums, and divide by the sums: [T, H, D]."""
    best = torch.stack([top for _, top, _ in terms]).amax(dim=0)
    out, total = (terms[0][0].new_zeros(terms[0][0].shape, dtype=torch.float32), torch.zeros_like(best))
    for some, top, count in terms:
        weight = (top - best).exp()
        out += some.where((weight > 0)[..., None], 0.0) * weight[..., None]
        total += count * weight
    return (out / total[..., None]).to(dtype).flatten(1, 2)


def joined_by_logs(outs: list[torch.Tensor], logs: list[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    """Join outputs [T, KVH, G, D], each divided by its sum, by the logs of these sums [T, KVH, G]:
    [T, H, D].

    A part that has no weight changes nothing, whatever its output is.
    """
    weights = torch.stack(logs).softmax(dim=0)[..., None]
    weighted = torch.stack(outs).where(weights > 0, 0.0) * weights
    return weighted.sum(dim=0).to(dtype).flatten(1, 2)


def most_scores(tensor: torch.Tensor) -> int:
    """Return how many scores may be in memory at once on the tensor's device."""
    return SCORES.get(tensor.device.type, SCORES["cpu"])


def _attend_rows(
    scaling: Scaling, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor,
    first: torch.Tensor | None, limit: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Attend for rows whose scores fit into memory at once."""
    weights = scores_of(scaling, query, keys)  # [KVH, N, L]
    places = torch.arange(keys.shape[1], device=query.device)[None, :]
    if limit is not None:
        weights.masked_fill_(places >= limit[:, None], -math.inf)
    if first is not None:
        weights.masked_fill_(places < first[:, None], -math.inf)
    top = weights.amax(dim=-1)
    weights.sub_(or_zero(top)[..., None]).exp_()
    return wide_bmm(weights.to(values.dtype), values), top, weights.sum(dim=-1)


def scores_of(scaling: Scaling, query: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Return the scores of queries [B, N, D] and keys [B, L, D] in float32, scaled and capped."""
    scores = wide_bmm(query, keys.transpose(1, 2)).mul_(scaling.scale)
    cap = scaling.cap
    return scores.div_(cap).tanh_().mul_(cap) if cap else scores


def or_zero(top: torch.Tensor) -> torch.Tensor:
    """Return maxima, with 0 where no key was seen: −inf − −inf would be NaN."""
    return top.where(top > -math.inf, 0.0)


def wide_bmm(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return the products of matrices [B, N, M] in float32: float16 ends at 65,504, which sums go
    beyond."""
    if left.is_cuda and left.dtype in (torch.float16, torch.bfloat16):
        return torch.bmm(left, right, out_dtype=torch.float32)
    return torch.bmm(left.float(), right.float())


def padded_heads(
    heads: Heads, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> list[torch.Tensor]:
    """Return heads of the store's number and width: narrower ones are padded with zeros, which
    change no product."""
    if repeat := heads.kv_heads // key.shape[0] - 1:  # other layers have more of them
        key, value = (some.repeat_interleave(repeat + 1, dim=0) for some in (key, value))
    return [
        some
        if some.shape[-1] == heads.dim
        else torch.nn.functional.pad(some, (0, heads.dim - some.shape[-1]))
        for some in (query, key, value)
    ]
