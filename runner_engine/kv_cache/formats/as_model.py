"""Keys or values in the model's own numbers: a row is the numbers."""

from __future__ import annotations

import torch

from runner_engine.kernels.kv_layers import KvCode
from runner_engine.kernels.shared_numbers import LANES

CODE = KvCode.kv_as_model


def stored_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type of a row's elements."""
    return dtype


def width(dim: int) -> int:
    """Return how many elements a row has."""
    return dim


def to_rows(numbers: torch.Tensor) -> torch.Tensor:
    """Return numbers [..., D] as rows [..., D]."""
    return numbers


def to_numbers(rows: torch.Tensor, dim: int, dtype: torch.dtype) -> torch.Tensor:
    """Return the numbers [..., D] of rows [..., D]."""
    return rows


def rows_of_blocks(arena: torch.Tensor, dim: int, pair: int, is_keys: bool) -> torch.Tensor:
    """Return the rows [KVH, places, D] of whole blocks, as a copy."""
    return _by_place(arena, pair, is_keys).reshape(arena.shape)


def put_rows(arena: torch.Tensor, rows: torch.Tensor, dim: int, pair: int, is_keys: bool) -> None:
    """Put rows [KVH, places, D] into the first places."""
    rows = torch.nn.functional.pad(rows, (0, 0, 0, -rows.shape[1] % LANES))
    blocks = _by_place(arena[:, : rows.shape[1]], pair, is_keys)
    blocks.copy_(rows.reshape(blocks.shape))


def _by_place(arena: torch.Tensor, pair: int, is_keys: bool) -> torch.Tensor:
    """Return a view of an arena [KVH, places, D], place by place."""
    kv_heads, _, dim = arena.shape
    if is_keys:
        return arena.view(kv_heads, -1, dim // pair, LANES, pair).transpose(2, 3)
    return arena.view(kv_heads, -1, dim, pair).transpose(2, 3)
