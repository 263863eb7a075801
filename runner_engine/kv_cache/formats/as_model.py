"""KV format without quantization: keys and values keep the model's dtype."""

from __future__ import annotations

import torch

from runner_engine.kernels.c_interface import LANES
from runner_engine.kernels.kv_layers import KvCode

CODE = KvCode.kv_as_model


def stored_dtype(dtype: torch.dtype) -> torch.dtype:
    return dtype


def stored_width(head_dim: int) -> int:
    return head_dim


def encode_kv(values: torch.Tensor) -> torch.Tensor:
    return values


def decode_kv(stored: torch.Tensor, head_dim: int, dtype: torch.dtype) -> torch.Tensor:
    """Return stored vectors [..., D] unchanged."""
    return stored


def read_kv_blocks(arena: torch.Tensor, head_dim: int, pair_size: int, is_keys: bool) -> torch.Tensor:
    return _view_arena_by_position(arena, pair_size, is_keys).reshape(arena.shape)


def write_kv_blocks(
    arena: torch.Tensor, stored: torch.Tensor, head_dim: int, pair_size: int, is_keys: bool
) -> None:
    stored = torch.nn.functional.pad(stored, (0, 0, 0, -stored.shape[1] % LANES))
    blocks = _view_arena_by_position(arena[:, : stored.shape[1]], pair_size, is_keys)
    blocks.copy_(stored.reshape(blocks.shape))


def _view_arena_by_position(arena: torch.Tensor, pair_size: int, is_keys: bool) -> torch.Tensor:
    """Return a view [KVH, positions, D] of an arena, ordered by position."""
    kv_heads, _, dim = arena.shape
    if is_keys:
        return arena.view(kv_heads, -1, dim // pair_size, LANES, pair_size).transpose(2, 3)
    return arena.view(kv_heads, -1, dim, pair_size).transpose(2, 3)
