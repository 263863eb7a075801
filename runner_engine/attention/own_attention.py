"""Attention of tokens to their own keys, joined with attention to keys that they share: the call of
the kernel.

Where attention to shared keys goes by tiles (shared_attention.py), own keys do, too, but for those
in bytes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from runner_engine.attention.parts import PartialAttention, Scaling
from runner_engine.kernels.native import Kernels, pointer, pointer_or_none
from runner_engine.kv_cache import Heads, OwnKv


@dataclass(frozen=True)
class OwnPlaces:
    """Which of its row's places each token sees."""

    store: OwnKv
    slot: torch.Tensor  # int32 [T]
    seen: torch.Tensor  # int32 [T]: how many
    first: torch.Tensor | None = None  # int32 [T]: from which on; None = from the first


def attend_own(
    kernels: Kernels, heads: Heads, scaling: Scaling, layer: int, query: torch.Tensor, places: OwnPlaces,
    parts: Sequence[PartialAttention] = (), new: tuple[torch.Tensor, torch.Tensor] | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """Attend [T, H, D] to own places and join the parts; `new`: keys and values of the last places,
    not stored yet."""
    tokens, table = query.shape[0], places.store.table
    result = torch.empty_like(query)
    put: list[int | None] = [None, None]
    if new is not None:
        put = [pointer(tensor, heads.dtype, tokens, heads.kv_heads, heads.dim) for tensor in new]
    kernels(
        heads.kernel("attend"),
        heads.dtype,
        pointer(query, heads.dtype, tokens, heads.kv_heads * heads.group, heads.dim),
        table.data_ptr(),
        len(table),
        *put,
        heads.kernel_layer(layer),
        heads.kv_heads,
        heads.group,
        heads.dim,
        tokens,
        pointer(places.slot, torch.int32, tokens),
        pointer_or_none(places.first, torch.int32, tokens),
        pointer(places.seen, torch.int32, tokens),
        ctypes.c_float(scaling.scale),
        ctypes.c_float(scaling.cap),
        pointer_or_none(sinks, torch.float32, heads.kv_heads * heads.group),
        len(parts),
        _int64_array([pointer(part.out, heads.dtype, *part.shape(heads), heads.dim) for part in parts]),
        _int64_array([pointer(part.top, torch.float32, *part.shape(heads)) for part in parts]),
        _int64_array([pointer(part.sum, torch.float32, *part.shape(heads)) for part in parts]),
        _int64_array([part.count for part in parts]),
        _int64_array([pointer(part.row_of, torch.int32, tokens) for part in parts]),
        result.data_ptr(),
        heads.attention_tile_rows,
    )
    return result


def _int64_array(numbers: list[int]) -> Any:
    return (ctypes.c_int64 * len(numbers))(*numbers) if numbers else None
