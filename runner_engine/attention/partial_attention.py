"""Computes attention over a part of the visible keys, with torch matmuls instead of C kernels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from runner_engine.kv_cache import KvCacheSpec

# in memory at once: more would not fit a CPU's caches; on a GPU, few large products are faster
SCORES = {"cpu": 2**22, "cuda": 2**25}


# outputs [T, KVH, G, D]; maxima and sums [T, KVH, G]
AttentionTerm = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Scaling:
    """Scale and logit cap of the attention scores."""

    scale: float
    cap: float  # as in Softmax


@dataclass
class PartialAttention:
    """Unnormalized attention over a part of the visible keys.

    Outputs are [KVH, n · G, D]; score maxima and sums of exponentials are [KVH, n · G].
    """

    out: torch.Tensor
    top: torch.Tensor
    sum: torch.Tensor
    row_of: torch.Tensor
    count: int  # n

    def expected_shape(self, kv_spec: KvCacheSpec) -> tuple[int, int]:
        return kv_spec.kv_heads, self.count * kv_spec.group

    def expand_attention_to_all_tokens(self, kv_spec: KvCacheSpec) -> AttentionTerm:
        """Return outputs, score maxima and sums for all tokens of the forward pass.

        Tokens without a result get sum 0.
        """
        rows, has_row = self.row_of.clamp(min=0).long(), (self.row_of >= 0)[:, None, None]
        out = self.out.view(kv_spec.kv_heads, -1, kv_spec.group, kv_spec.dim).transpose(0, 1)[rows].float()
        top, total = (
            some.view(kv_spec.kv_heads, -1, kv_spec.group).transpose(0, 1)[rows]
            for some in (self.top, self.sum)
        )
        return out, top.where(has_row, -math.inf), total.where(has_row, 0.0)


def merge_groups_by_token(grouped_query: torch.Tensor) -> torch.Tensor:
    """Reshape grouped queries [KVH, G, n, D] to [KVH, n · G, D]."""
    return grouped_query.transpose(1, 2).reshape(grouped_query.shape[0], -1, grouped_query.shape[-1])


def compute_unnormalized_attention(
    scaling: Scaling, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor,
    first_positions: torch.Tensor | None, end_positions: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Compute unnormalized attention of queries [KVH, N, D] to keys and values [KVH, L, D].

    Returns outputs, score maxima and sums.

    Each query has a separate range of visible positions.
    """
    kv_heads, rows, _ = query.shape
    step = max(max_scores_in_memory(query) // (kv_heads * keys.shape[1]), 64)
    if rows <= step:
        return _compute_unnormalized_attention_chunk(
            scaling, query, keys, values, first_positions, end_positions
        )
    out = torch.empty_like(query, dtype=torch.float32)
    top, total = (torch.empty(kv_heads, rows, dtype=torch.float32, device=query.device) for _ in range(2))
    for start in range(0, rows, step):
        at = slice(start, start + step)
        ends = (None if some is None else some[at] for some in (first_positions, end_positions))
        out[:, at], top[:, at], total[:, at] = _compute_unnormalized_attention_chunk(
            scaling, query[:, at], keys, values, *ends
        )
    return out, top, total


def attend_to_unshared_keys(
    scaling: Scaling, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor,
    num_visible: torch.Tensor, first_positions: torch.Tensor | None,
) -> AttentionTerm:  # fmt: skip
    """Compute attention of tokens [T, KVH, G, D] to their unshared keys and values [T, KVH, L, D]."""
    shape, (keys, values) = query.shape, (keys.flatten(0, 1), values.flatten(0, 1))
    scores = compute_attention_scores(scaling, query.flatten(0, 1), keys).view(*shape[:3], -1)
    places = torch.arange(scores.shape[-1], device=query.device)[None, :]
    hidden = places >= num_visible[:, None]
    if first_positions is not None:
        hidden |= places < first_positions[:, None]
    scores.masked_fill_(hidden[:, None, None, :], -math.inf)
    top = scores.amax(dim=-1)
    scores.sub_(replace_minus_inf(top)[..., None]).exp_()
    weighted = multiply_batched_float32(scores.to(values.dtype).flatten(0, 1), values)
    return weighted.view(shape), top, scores.sum(dim=-1)


def build_attention_sink_term(
    sinks: torch.Tensor, shape: tuple[int, int, int], head_dim: int
) -> AttentionTerm:
    """Return attention sinks as a term that adds to the softmax sum but not to the output.

    shape: [T, KVH, G].
    """
    top = sinks.view(1, *shape[1:]).expand(shape)
    return (
        torch.zeros((), dtype=torch.float32, device=sinks.device).expand(*shape, head_dim),
        top,
        torch.ones_like(top),
    )


def merge_partial_results(partial_results: list[AttentionTerm], dtype: torch.dtype) -> torch.Tensor:
    """Merge partial attention results by their score maxima and sums. Returns normalized [T, H, D]."""
    best = torch.stack([top for _, top, _ in partial_results]).amax(dim=0)
    out, total = (
        partial_results[0][0].new_zeros(partial_results[0][0].shape, dtype=torch.float32),
        torch.zeros_like(best),
    )
    for some, top, count in partial_results:
        weight = (top - best).exp()
        out += some.where((weight > 0)[..., None], 0.0) * weight[..., None]
        total += count * weight
    return (out / total[..., None]).to(dtype).flatten(1, 2)


def merge_attention_by_log_sums(
    partial_outputs: list[torch.Tensor], log_sums: list[torch.Tensor], dtype: torch.dtype
) -> torch.Tensor:
    """Merge normalized partial outputs [T, KVH, G, D], using their log-sums [T, KVH, G].

    Returns [T, H, D].

    A part without weight changes nothing, whatever its output is.
    """
    weights = torch.stack(log_sums).softmax(dim=0)[..., None]
    weighted = torch.stack(partial_outputs).where(weights > 0, 0.0) * weights
    return weighted.sum(dim=0).to(dtype).flatten(1, 2)


def max_scores_in_memory(tensor: torch.Tensor) -> int:
    """Return the maximum number of attention scores to hold in memory at once on the tensor's device."""
    return SCORES.get(tensor.device.type, SCORES["cpu"])


def _compute_unnormalized_attention_chunk(
    scaling: Scaling, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor,
    first_positions: torch.Tensor | None, end_positions: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    weights = compute_attention_scores(scaling, query, keys)  # [KVH, N, L]
    places = torch.arange(keys.shape[1], device=query.device)[None, :]
    if end_positions is not None:
        weights.masked_fill_(places >= end_positions[:, None], -math.inf)
    if first_positions is not None:
        weights.masked_fill_(places < first_positions[:, None], -math.inf)
    top = weights.amax(dim=-1)
    weights.sub_(replace_minus_inf(top)[..., None]).exp_()
    return multiply_batched_float32(weights.to(values.dtype), values), top, weights.sum(dim=-1)


def compute_attention_scores(scaling: Scaling, query: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Return scaled and capped attention scores (float32) of queries [B, N, D] and keys [B, L, D]."""
    scores = multiply_batched_float32(query, keys.transpose(1, 2)).mul_(scaling.scale)
    cap = scaling.cap
    return scores.div_(cap).tanh_().mul_(cap) if cap else scores


def replace_minus_inf(maxima: torch.Tensor) -> torch.Tensor:
    """Replace score maxima of −inf by 0, because −inf minus −inf is NaN."""
    return maxima.where(maxima > -math.inf, 0.0)


def multiply_batched_float32(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Multiply batches of matrices [B, N, M] with float32 results.

    Sums may exceed the float16 limit of 65,504.
    """
    if left.is_cuda and left.dtype in (torch.float16, torch.bfloat16):
        return torch.bmm(left, right, out_dtype=torch.float32)
    return torch.bmm(left.float(), right.float())


def expand_heads_to_kv_shape(
    kv_spec: KvCacheSpec, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> list[torch.Tensor]:
    """Repeat heads and pad them with zeros to the KV store's number and width of heads.

    Zeros do not change the dot products.
    """
    if repeat := kv_spec.kv_heads // key.shape[0] - 1:  # other layers have more of them
        key, value = (some.repeat_interleave(repeat + 1, dim=0) for some in (key, value))
    return [
        some
        if some.shape[-1] == kv_spec.dim
        else torch.nn.functional.pad(some, (0, kv_spec.dim - some.shape[-1]))
        for some in (query, key, value)
    ]
