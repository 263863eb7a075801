"""Calls the C kernel that computes attention to unshared keys.

The kernel also merges the results of attention to shared keys. Where attention to shared
keys uses
tiles (shared_attention.py), unshared keys use tiles too, except in int8 and int4 formats.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from runner_engine.attention.partial_attention import PartialAttention, Scaling
from runner_engine.kernels.native import Kernels, get_optional_tensor_address, get_tensor_address
from runner_engine.kv_cache import KvCacheSpec, KvStore


@dataclass(frozen=True)
class OwnKeyRanges:
    """Range of unshared positions that each token attends to."""

    store: KvStore
    slot: torch.Tensor  # int32 [T]
    seen: torch.Tensor  # int32 [T]: how many
    first: torch.Tensor | None = None  # int32 [T]: from which on; None = from the first


def run_unshared_key_attention_kernel(
    kernels: Kernels, kv_spec: KvCacheSpec, scaling: Scaling, layer: int, query: torch.Tensor, key_ranges: OwnKeyRanges,
    partial_results: Sequence[PartialAttention] = (), new_kv: tuple[torch.Tensor, torch.Tensor] | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """Compute attention of tokens [T, H, D] to unshared keys.

    The result includes `partial_results`, the attention to shared keys.

    new_kv: keys and values of the last positions that are not stored yet.
    """
    tokens, table = query.shape[0], key_ranges.store.address_table
    result = torch.empty_like(query)
    put: list[int | None] = [None, None]
    if new_kv is not None:
        put = [
            get_tensor_address(tensor, kv_spec.dtype, tokens, kv_spec.kv_heads, kv_spec.dim)
            for tensor in new_kv
        ]
    kernels(
        kv_spec.kernel_name("attend"),
        kv_spec.dtype,
        get_tensor_address(query, kv_spec.dtype, tokens, kv_spec.kv_heads * kv_spec.group, kv_spec.dim),
        table.data_ptr(),
        len(table),
        *put,
        kv_spec.get_kernel_layer_address(layer),
        kv_spec.kv_heads,
        kv_spec.group,
        kv_spec.dim,
        tokens,
        get_tensor_address(key_ranges.slot, torch.int32, tokens),
        get_optional_tensor_address(key_ranges.first, torch.int32, tokens),
        get_tensor_address(key_ranges.seen, torch.int32, tokens),
        ctypes.c_float(scaling.scale),
        ctypes.c_float(scaling.cap),
        get_optional_tensor_address(sinks, torch.float32, kv_spec.kv_heads * kv_spec.group),
        len(partial_results),
        _create_int64_array(
            [
                get_tensor_address(part.out, kv_spec.dtype, *part.expected_shape(kv_spec), kv_spec.dim)
                for part in partial_results
            ]
        ),
        _create_int64_array(
            [
                get_tensor_address(part.top, torch.float32, *part.expected_shape(kv_spec))
                for part in partial_results
            ]
        ),
        _create_int64_array(
            [
                get_tensor_address(part.sum, torch.float32, *part.expected_shape(kv_spec))
                for part in partial_results
            ]
        ),
        _create_int64_array([part.count for part in partial_results]),
        _create_int64_array(
            [get_tensor_address(part.row_of, torch.int32, tokens) for part in partial_results]
        ),
        result.data_ptr(),
        kv_spec.attention_tile_rows,
    )
    return result


def _create_int64_array(values: list[int]) -> Any:
    return (ctypes.c_int64 * len(values))(*values) if values else None
