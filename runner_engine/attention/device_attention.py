"""Attention on a GPU: torch's SDPA functions that return the log of a part's weights, so that parts
can be joined.

A part is a shared prefix, the spans of a pass, or the rows' own keys. Each is one call, whatever
the number of rows. The functions also run on a CPU, where the tests compare them with one softmax
in float64.
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
from runner_engine.attention.parts import PartialAttention, Scaling, by_token, scores_of, wide_bmm
from runner_engine.kv_cache import Heads

FORCED = "RUNNER_ATTENTION"
WIDEST = 256  # numbers of a head, above which SDPA has no function that returns the log of the weights
WHOLE = 8  # numbers: a head that is no multiple of them is not aligned for a GPU's functions
MASK_WIDTH = 16  # keys: a mask's rows begin at multiples of them, for the same reason
HALF = (torch.float16, torch.bfloat16)

# outputs, already divided by the sum of weights, and the log of that sum
Part = tuple[torch.Tensor, torch.Tensor]


class By(StrEnum):
    """What computes attention where there are no compiled kernels."""

    sdpa = "sdpa"
    plain = "plain"


def requested() -> By | None:
    """Return what RUNNER_ATTENTION forces; ConfigError where it is neither."""
    text = os.environ.get(FORCED, "")
    if text and text not in list(By):
        raise ConfigError(
            f"choose one of {', '.join(By)}, or leave it away: sdpa on a GPU",
            key=FORCED,
            value=text,
            code="unknown_choice",
        )
    return By(text) if text else None


def is_wanted(device: torch.device) -> bool:
    """Whether SDPA is to be tried on a device: on a GPU, or where it is forced."""
    wanted = requested()
    return device.type == "cuda" if wanted is None else wanted is By.sdpa


def attend(
    scaling: Scaling, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor,
    hidden: torch.Tensor | None = None, is_causal: bool = False,
) -> Part:  # fmt: skip
    """Attend [B, H, M, D] to keys and values [B, H, N, D]; return [B, H, M, D] and float32 [B, H,
    M].

    hidden: bool [B or 1, 1, M or 1, N], True = the query does not see the key. A query that sees
    none gets some finite output, with a log so low that it has no weight beside another part.
    """
    if not _is_for_sdpa(scaling, query):
        return _by_products(scaling, query, keys, values, hidden, is_causal)
    bias = None if hidden is None else _bias(hidden, query, keys.shape[2])
    aten, scale = torch.ops.aten, scaling.scale
    if query.device.type == "cpu":
        out, log = aten._scaled_dot_product_flash_attention_for_cpu(
            query, keys, values, 0.0, is_causal, attn_mask=bias, scale=scale
        )
    elif bias is None and query.dtype in HALF and has_flash(query.device):
        out, log = aten._scaled_dot_product_flash_attention(
            query, keys, values, 0.0, is_causal, False, scale=scale
        )[:2]
    else:
        out, log = aten._scaled_dot_product_efficient_attention(
            query, keys, values, bias, True, 0.0, is_causal, scale=scale
        )[:2]
    return out, log[:, :, : query.shape[2]]  # one of them fills the logs up to a multiple of 32


@cache
def has_flash(device: torch.device) -> bool:
    """Whether a GPU runs flash attention: from NVIDIA's Ampere on."""
    return torch.cuda.get_device_capability(device) >= (8, 0)


def attends_by_length(heads: Heads) -> bool:
    """Whether own keys are attended to by their number for each row: then a step has no mask, and
    reads no other keys.

    Flash attention does that; on a CPU, where tests force SDPA, the same with a mask stands for it.
    """
    if not (heads.by_sdpa and heads.plain_softmax) or heads.in_bytes:
        return False
    if (
        heads.dim > WIDEST
        or heads.dim % WHOLE
        or any(window is not None and window.is_chunk for window in heads.windows)
    ):
        return False
    return heads.device.type != "cuda" or (heads.dtype in HALF and has_flash(heads.device))


@dataclass(frozen=True)
class OwnKeys:
    """Each row's keys and values in a layer [row · place, KVH, D], of which it sees the first
    `counts` ones.

    With `blocks`, a row's places are where these pages are, wherever that is.
    """

    keys: torch.Tensor
    values: torch.Tensor
    rows: torch.Tensor  # int32 [B + 1]: 0, 1, …
    starts: torch.Tensor  # int32 [B + 1]: where each row's places begin, and the end
    counts: torch.Tensor  # int32 [B]
    places: int  # of each row
    window: int | None = None  # a row sees only so many last ones
    blocks: torch.Tensor | None = None  # int32 [B, pages]: the pages of each row


def attend_by_length(scaling: Scaling, query: torch.Tensor, own: OwnKeys) -> Part:
    """Attend one query of each row [B, H, D] to its own keys; return [B, H, D] and float32 [B,
    H]."""
    keys, values, is_paged = own.keys, own.values, own.blocks is not None
    if own.blocks is not None:
        page = own.places // own.blocks.shape[1]
        keys, values = (some.view(-1, page, *some.shape[1:]) for some in (keys, values))
    if query.device.type != "cpu":
        more: dict[str, Any] = {"block_table": own.blocks} if is_paged else {}
        if own.window is not None:
            more |= {"window_size_left": own.window - 1, "window_size_right": 0}
        if is_paged and (own.window is not None or query.shape[1] == own.keys.shape[1]):
            # else torch may split a row's pages, and with a window, or without groups of heads, its
            # sum over the parts puts all rows' results in the place of the first one
            # (mha_varlen_fwd sets no o_batch_stride there)
            more["num_splits"] = 1
        out, log = torch.ops.aten._flash_attention_forward(
            query, keys, values, own.rows, own.starts, 1, own.places, 0.0, False, False,
            scale=scaling.scale, seqused_k=own.counts, **more,
        )[:2]  # fmt: skip
        return out, log.transpose(0, 1)
    place = torch.arange(own.places)[None]
    hidden = place >= own.counts[:, None]
    if own.window is not None:
        hidden |= place < own.counts[:, None] - own.window
    if own.blocks is not None:
        keys, values = (
            some[own.blocks.long()].flatten(1, 2).masked_fill_(hidden[..., None, None], 0.0)
            for some in (keys, values)
        )
    keys, values = (
        some.view(len(query), own.places, -1, some.shape[-1]).transpose(1, 2) for some in (keys, values)
    )
    grouped = query.view(len(query), keys.shape[1], -1, query.shape[-1])
    out, log = attend(scaling, grouped, keys, values, hidden[:, None, None])
    return out.flatten(1, 2), log.flatten(1, 2)


def _is_for_sdpa(scaling: Scaling, query: torch.Tensor) -> bool:
    """Whether an SDPA function computes this: none caps scores."""
    width = query.shape[-1]
    return not scaling.cap and width <= WIDEST and width % WHOLE == 0 and query.device.type in ("cpu", "cuda")


def _bias(hidden: torch.Tensor, query: torch.Tensor, keys: int) -> torch.Tensor:
    """Return what is added to scores [B, H, M, N]: nothing, or so low a number that the key has no
    weight.

    It is finite, since −inf for all keys of a query would give NaN, and half of the lowest to leave
    room for the score.
    """
    wide = torch.nn.functional.pad(hidden, (0, -keys % MASK_WIDTH))
    bias = torch.zeros(wide.shape, dtype=query.dtype, device=query.device)
    bias = bias.masked_fill_(wide, torch.finfo(query.dtype).min / 2)[..., :keys]
    return bias.expand(*query.shape[:3], keys)


def _by_products(
    scaling: Scaling, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor,
    hidden: torch.Tensor | None, is_causal: bool,
) -> Part:  # fmt: skip
    """As `attend`, by two products with all scores in memory: for caps, and for heads that SDPA
    does not support."""
    shape = (*query.shape[:3], keys.shape[2])
    scores = scores_of(scaling, query.flatten(0, 1), keys.flatten(0, 1)).view(shape)
    if is_causal:
        later = torch.ones(shape[2:], dtype=torch.bool, device=query.device).triu_(1)
        hidden = later if hidden is None else hidden | later
    if hidden is not None:
        scores.masked_fill_(hidden, torch.finfo(scores.dtype).min / 2)
    log = scores.logsumexp(dim=-1)
    weights = scores.sub_(log[..., None]).exp_().to(values.dtype)
    return wide_bmm(weights.flatten(0, 1), values.flatten(0, 1)).view(query.shape), log


def attend_to_prefix(
    scaling: Scaling, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Attend [KVH, N, D] to all keys [KVH, L, D]; return outputs, maxima and sums, as
    `attend_to_keys` does."""
    out, log = (some[0] for some in attend(scaling, query[None], keys[None], values[None]))
    return out, log, torch.ones_like(log)


# -------------------------------------------------------------------------------------------- spans


@dataclass(frozen=True)
class SpanBatch:
    """Spans of similar length side by side, filled up to the longest: what fills up is later than
    all that counts."""

    tokens: torch.Tensor  # int64 [S · M]: places in the pass
    spans: int


@dataclass(frozen=True)
class SpanBatches:
    """The spans of a pass, in few batches: how many depends on how different their lengths are."""

    batches: list[SpanBatch]
    # int32 [T]: a token's place among the rows of all batches, -1 = it is in no span
    row_of: torch.Tensor
    rows: int

    @classmethod
    def of(cls, spans: Sequence[tuple[int, int]], tokens: int, device: torch.device) -> SpanBatches:
        """Arrange spans (first, last) of a pass of so many tokens: within a batch, no length is
        half of another."""
        alike: dict[int, list[tuple[int, int]]] = {}
        for first, last in spans:
            alike.setdefault((last - first - 1).bit_length(), []).append((first, last))
        batches, row_of, rows = [], [-1] * tokens, 0
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
    heads: Heads,
    scaling: Scaling,
    batches: SpanBatches,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
) -> PartialAttention:
    """Attend the tokens of each span to itself and those before it: query [H, T, D], key and value
    [KVH, T, D]."""
    outs, logs = [], []
    for batch in batches.batches:
        own, keys, values = (
            some[:, batch.tokens].view(len(some), batch.spans, -1, heads.dim).transpose(0, 1)
            for some in (query, key, value)
        )
        keys, values = (some.repeat_interleave(heads.group, dim=1) for some in (keys, values))
        out, log = attend(scaling, own, keys, values, is_causal=True)  # [S, H, M, D] and [S, H, M]
        shape = (batch.spans, heads.kv_heads, heads.group, -1)
        outs.append(out.view(*shape, heads.dim).permute(1, 0, 3, 2, 4).flatten(1, 3))
        logs.append(log.reshape(shape).permute(1, 0, 3, 2).flatten(1, 3))
    log = torch.cat(logs, dim=1)
    return PartialAttention(torch.cat(outs, dim=1), log, torch.ones_like(log), batches.row_of, batches.rows)


def attend_to_earlier(
    heads: Heads,
    scaling: Scaling,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    row_of: torch.Tensor,
) -> PartialAttention:
    """Attend the tokens [H, n, D] of one span to all its row's keys of earlier passes [KVH, L,
    D]."""
    grouped = query.view(heads.kv_heads, heads.group, *query.shape[1:])
    return PartialAttention(
        *attend_to_prefix(scaling, by_token(grouped), keys, values), row_of, query.shape[1]
    )
