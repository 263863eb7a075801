"""Attention on a GPU with torch's SDPA functions.

They also return log-sums, with which partial results are merged.

A part is a shared prefix, the spans of a pass, or the sequences' own keys. Each part is
one call for all sequences. The functions also run on a CPU, where tests compare them with
one softmax in float64.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any

import torch

from runner_base import ConfigError
from runner_engine.attention.partial_attention import (
    PartialAttention,
    Scaling,
    compute_attention_scores,
    merge_groups_by_token,
    multiply_batched_float32,
)
from runner_engine.kv_cache import KvCacheSpec

FORCED = "RUNNER_ATTENTION"
WIDEST = 256  # numbers of a head, above which SDPA has no function that returns the log of the weights
WHOLE = 8  # numbers: a head that is no multiple of them is not aligned for a GPU's functions
MASK_WIDTH = 16  # keys: a mask's rows begin at multiples of them, for the same reason
HALF = (torch.float16, torch.bfloat16)

# outputs, already divided by the sum of weights, and the log of that sum
OutputAndLogSum = tuple[torch.Tensor, torch.Tensor]


class AttentionBackend(StrEnum):
    """Attention backends that work without compiled C kernels."""

    sdpa = "sdpa"
    plain = "plain"


def read_attention_backend_from_environment() -> AttentionBackend | None:
    """Return the attention backend that the environment variable RUNNER_ATTENTION forces, or None.

    Raises ConfigError for unknown values.
    """
    text = os.environ.get(FORCED, "")
    if text and text not in list(AttentionBackend):
        raise ConfigError(
            f"unknown backend. Choose one of {', '.join(AttentionBackend)}, or unset it to use sdpa on a GPU",
            key=FORCED,
            value=text,
            code="unknown_choice",
        )
    return AttentionBackend(text) if text else None


def should_try_sdpa(device: torch.device) -> bool:
    """Whether to try SDPA attention.

    The default is True only on a GPU. RUNNER_ATTENTION overrides the default.
    """
    wanted = read_attention_backend_from_environment()
    return device.type == "cuda" if wanted is None else wanted is AttentionBackend.sdpa


def attend(
    scaling: Scaling, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor,
    mask: torch.Tensor | None = None, is_causal: bool = False,
) -> OutputAndLogSum:  # fmt: skip
    """Compute attention of queries [B, H, M, D] to keys and values [B, H, N, D].

    Returns outputs [B, H, M, D] and log-sums [B, H, M].

    mask: bool [B or 1, 1, M or 1, N], True if the query does not attend to the key. A query
    without any key gets a finite output and a log-sum so low that it has no weight next to
    another part.
    """
    if not _is_supported_by_sdpa(scaling, query):
        return _attend_with_matmuls(scaling, query, keys, values, mask, is_causal)
    bias = None if mask is None else _build_attention_mask_bias(mask, query, keys.shape[2])
    aten, scale = torch.ops.aten, scaling.scale
    if query.device.type == "cpu":
        out, log = aten._scaled_dot_product_flash_attention_for_cpu(
            query, keys, values, 0.0, is_causal, attn_mask=bias, scale=scale
        )
    elif bias is None and query.dtype in HALF and has_flash_attention(query.device):
        out, log = aten._scaled_dot_product_flash_attention(
            query, keys, values, 0.0, is_causal, False, scale=scale
        )[:2]
    else:
        out, log = aten._scaled_dot_product_efficient_attention(
            query, keys, values, bias, True, 0.0, is_causal, scale=scale
        )[:2]
    return out, log[:, :, : query.shape[2]]  # one of them fills the logs up to a multiple of 32


@cache
def has_flash_attention(device: torch.device) -> bool:
    """Whether a GPU supports flash attention: NVIDIA Ampere or newer."""
    return torch.cuda.get_device_capability(device) >= (8, 0)


def supports_variable_key_counts(kv_spec: KvCacheSpec) -> bool:
    """Whether attention supports a different number of unshared keys for each sequence, without a mask.

    Flash attention supports that. On a CPU, where tests force SDPA, the same computation with a
    mask replaces it.
    """
    if not (kv_spec.by_sdpa and kv_spec.plain_softmax) or kv_spec.is_quantized:
        return False
    if (
        kv_spec.dim > WIDEST
        or kv_spec.dim % WHOLE
        or any(window is not None and window.is_chunk for window in kv_spec.windows)
    ):
        return False
    return kv_spec.device.type != "cuda" or (kv_spec.dtype in HALF and has_flash_attention(kv_spec.device))


@dataclass(frozen=True)
class OwnKeys:
    """Unshared keys and values of all sequences in a layer: [sequence · position, KVH, D].

    Also holds the number of visible positions.

    With `blocks`, a sequence's positions lie in these pages, which may be anywhere.
    """

    keys: torch.Tensor
    values: torch.Tensor
    rows: torch.Tensor  # int32 [B + 1]: 0, 1, …
    starts: torch.Tensor  # int32 [B + 1]: where each row's places begin, and the end
    counts: torch.Tensor  # int32 [B]
    places: int  # of each row
    window: int | None = None  # a row sees only so many last ones
    blocks: torch.Tensor | None = None  # int32 [B, pages]: the pages of each row


def compute_variable_length_attention(
    scaling: Scaling, query: torch.Tensor, unshared_kv: OwnKeys
) -> OutputAndLogSum:
    """Compute attention of one query per sequence, [B, H, D], to the sequence's unshared keys.

    Returns outputs [B, H, D] and log-sums [B, H].
    """
    keys, values, is_paged = unshared_kv.keys, unshared_kv.values, unshared_kv.blocks is not None
    if unshared_kv.blocks is not None:
        page = unshared_kv.places // unshared_kv.blocks.shape[1]
        keys, values = (some.view(-1, page, *some.shape[1:]) for some in (keys, values))
    if query.device.type != "cpu":
        more: dict[str, Any] = {"block_table": unshared_kv.blocks} if is_paged else {}
        if unshared_kv.window is not None:
            more |= {"window_size_left": unshared_kv.window - 1, "window_size_right": 0}
        if is_paged and (unshared_kv.window is not None or query.shape[1] == unshared_kv.keys.shape[1]):
            # else torch may split a row's pages, and with a window, or without groups of heads, its
            # sum over the parts puts all rows' results in the place of the first one
            # (mha_varlen_fwd sets no o_batch_stride there)
            more["num_splits"] = 1
        out, log = torch.ops.aten._flash_attention_forward(
            query, keys, values, unshared_kv.rows, unshared_kv.starts, 1, unshared_kv.places, 0.0, False, False,
            scale=scaling.scale, seqused_k=unshared_kv.counts, **more,
        )[:2]  # fmt: skip
        return out, log.transpose(0, 1)
    place = torch.arange(unshared_kv.places)[None]
    hidden = place >= unshared_kv.counts[:, None]
    if unshared_kv.window is not None:
        hidden |= place < unshared_kv.counts[:, None] - unshared_kv.window
    if unshared_kv.blocks is not None:
        keys, values = (
            some[unshared_kv.blocks.long()].flatten(1, 2).masked_fill_(hidden[..., None, None], 0.0)
            for some in (keys, values)
        )
    keys, values = (
        some.view(len(query), unshared_kv.places, -1, some.shape[-1]).transpose(1, 2)
        for some in (keys, values)
    )
    grouped = query.view(len(query), keys.shape[1], -1, query.shape[-1])
    out, log = attend(scaling, grouped, keys, values, hidden[:, None, None])
    return out.flatten(1, 2), log.flatten(1, 2)


def _is_supported_by_sdpa(scaling: Scaling, query: torch.Tensor) -> bool:
    """Whether one of torch's SDPA functions supports these heads. None of them supports logit caps."""
    width = query.shape[-1]
    return not scaling.cap and width <= WIDEST and width % WHOLE == 0 and query.device.type in ("cpu", "cuda")


def _build_attention_mask_bias(mask: torch.Tensor, query: torch.Tensor, num_keys: int) -> torch.Tensor:
    """Return the bias for attention scores [B, H, M, N] that hides masked keys.

    The bias is finite, because −inf for all keys of a query would give NaN. It is half of the
    lowest number, to leave room for the score.
    """
    wide = torch.nn.functional.pad(mask, (0, -num_keys % MASK_WIDTH))
    bias = torch.zeros(wide.shape, dtype=query.dtype, device=query.device)
    bias = bias.masked_fill_(wide, torch.finfo(query.dtype).min / 2)[..., :num_keys]
    return bias.expand(*query.shape[:3], num_keys)


def _attend_with_matmuls(
    scaling: Scaling, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor,
    mask: torch.Tensor | None, is_causal: bool,
) -> OutputAndLogSum:  # fmt: skip
    """Compute attention with two matmuls, and store all attention scores in memory.

    Supports logit caps and all head sizes, unlike SDPA.
    """
    shape = (*query.shape[:3], keys.shape[2])
    scores = compute_attention_scores(scaling, query.flatten(0, 1), keys.flatten(0, 1)).view(shape)
    if is_causal:
        later = torch.ones(shape[2:], dtype=torch.bool, device=query.device).triu_(1)
        mask = later if mask is None else mask | later
    if mask is not None:
        scores.masked_fill_(mask, torch.finfo(scores.dtype).min / 2)
    log = scores.logsumexp(dim=-1)
    weights = scores.sub_(log[..., None]).exp_().to(values.dtype)
    return multiply_batched_float32(weights.flatten(0, 1), values.flatten(0, 1)).view(query.shape), log


def attend_to_prefix(
    scaling: Scaling, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute attention of queries [KVH, N, D] to all keys [KVH, L, D] of a prefix.

    Returns outputs, score maxima and sums of exponentials.
    """
    out, log = (some[0] for some in attend(scaling, query[None], keys[None], values[None]))
    return out, log, torch.ones_like(log)


# -------------------------------------------------------------------------------------------- spans


@dataclass(frozen=True)
class SpanBatch:
    """Token spans of similar length, padded to the longest of these spans."""

    tokens: torch.Tensor  # int64 [S · M]: places in the pass
    spans: int


@dataclass(frozen=True)
class SpanBatches:
    """Token spans of a forward pass, grouped by similar length into a few batches."""

    batches: list[SpanBatch]
    # int32 [T]: a token's place among the rows of all batches, -1 = it is in no span
    row_of: torch.Tensor
    rows: int

    @classmethod
    def from_spans(
        cls, span_bounds: Sequence[tuple[int, int]], num_tokens: int, device: torch.device
    ) -> SpanBatches:
        """Group token spans, given as (first, last), into batches.

        In a batch, every span is longer than half the longest span.
        """
        alike: dict[int, list[tuple[int, int]]] = {}
        for first, last in span_bounds:
            alike.setdefault((last - first - 1).bit_length(), []).append((first, last))
        batches, row_of, rows = [], [-1] * num_tokens, 0
        for some in alike.values():
            longest = max(last - first for first, last in some)
            chosen: list[int] = []
            for first, last in some:
                at = rows + len(chosen)
                row_of[first:last] = range(at, at + last - first)
                chosen += [*range(first, last), *[first] * (longest - last + first)]
            rows += len(chosen)
            batches.append(SpanBatch(torch.tensor(chosen, device=device), len(some)))
        return cls(batches, torch.tensor(row_of, dtype=torch.int32, device=device), rows)


def attend_within_spans(
    kv_spec: KvCacheSpec,
    scaling: Scaling,
    batches: SpanBatches,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
) -> PartialAttention:
    """Compute attention of tokens to themselves and to earlier tokens of the same span.

    query is [H, T, D]; key and value are [KVH, T, D].
    """
    outs, logs = [], []
    for batch in batches.batches:
        own, keys, values = (
            some[:, batch.tokens].view(len(some), batch.spans, -1, kv_spec.dim).transpose(0, 1)
            for some in (query, key, value)
        )
        keys, values = (some.repeat_interleave(kv_spec.group, dim=1) for some in (keys, values))
        out, log = attend(scaling, own, keys, values, is_causal=True)  # [S, H, M, D] and [S, H, M]
        shape = (batch.spans, kv_spec.kv_heads, kv_spec.group, -1)
        outs.append(out.view(*shape, kv_spec.dim).permute(1, 0, 3, 2, 4).flatten(1, 3))
        logs.append(log.reshape(shape).permute(1, 0, 3, 2).flatten(1, 3))
    log = torch.cat(logs, dim=1)
    return PartialAttention(torch.cat(outs, dim=1), log, torch.ones_like(log), batches.row_of, batches.rows)


def attend_to_cached_keys(
    kv_spec: KvCacheSpec,
    scaling: Scaling,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    indices_in_span: torch.Tensor,
) -> PartialAttention:
    """Compute attention of a span's tokens [H, n, D] to the cached keys [KVH, L, D] of the sequence."""
    grouped = query.view(kv_spec.kv_heads, kv_spec.group, *query.shape[1:])
    return PartialAttention(
        *attend_to_prefix(scaling, merge_groups_by_token(grouped), keys, values),
        indices_in_span,
        query.shape[1],
    )
