"""KV format with 8 bits per element: quantization in torch, and the block layout of the C kernels.

A stored vector is `dim` bytes of one position and one head, followed by their float32
scale. The kernels (kernels/kv_int8.h) compute the same bits and keep these vectors in
blocks of positions.
"""

from __future__ import annotations

import torch

from runner_engine.checkpoints.kv_size import SCALE_BYTES
from runner_engine.kernels.c_interface import LANES
from runner_engine.kernels.kv_layers import KvCode

CODE = KvCode.kv_int8
LARGEST = 127
SMALLEST = 1e-30  # of a row's largest number; below it, LARGEST divided by it could be infinite


def stored_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.int8


def stored_width(head_dim: int) -> int:
    return head_dim + SCALE_BYTES


def encode_kv(values: torch.Tensor) -> torch.Tensor:
    """Quantize keys or values [..., D] to stored bytes [..., D + 4].

    A vector with NaN or infinity gets the scale NaN.
    """
    values = values.float()
    most = values.abs().amax(dim=-1, keepdim=True)
    # for a number of Python, torch multiplies by the inverse
    largest = torch.full_like(most, LARGEST)
    is_sound = most < torch.inf
    factor = torch.where(is_sound & (most >= SMALLEST), largest / most, 0.0)
    scale = torch.where(most >= SMALLEST, most / largest, 0.0).masked_fill_(~is_sound, torch.nan)
    steps = (values * factor).round_().nan_to_num_(0.0)
    bytes_of_scale = scale.flatten().contiguous().view(torch.int8).view(*values.shape[:-1], SCALE_BYTES)
    return torch.cat((steps.to(torch.int8), bytes_of_scale), dim=-1)


def decode_kv(stored: torch.Tensor, head_dim: int, dtype: torch.dtype) -> torch.Tensor:
    scale = stored[..., -SCALE_BYTES:].contiguous().view(torch.float32)
    return (stored[..., :-SCALE_BYTES].float() * scale).to(dtype)


def read_kv_blocks(arena: torch.Tensor, head_dim: int, pair_size: int, is_keys: bool) -> torch.Tensor:
    numbers, scales = _view_arena_by_position(arena, pair_size, is_keys)
    kv_heads, places, width = arena.shape
    return torch.cat(
        (
            numbers.reshape(kv_heads, places, width - SCALE_BYTES),
            scales.reshape(kv_heads, places, SCALE_BYTES),
        ),
        dim=-1,
    )


def write_kv_blocks(
    arena: torch.Tensor, stored: torch.Tensor, head_dim: int, pair_size: int, is_keys: bool
) -> None:
    stored = torch.nn.functional.pad(stored, (0, 0, 0, -stored.shape[1] % LANES))
    numbers, scales = _view_arena_by_position(arena[:, : stored.shape[1]], pair_size, is_keys)
    numbers.copy_(stored[..., :-SCALE_BYTES].reshape(numbers.shape))
    scales.copy_(stored[..., -SCALE_BYTES:].reshape(scales.shape))


def _view_arena_by_position(
    arena: torch.Tensor, pair_size: int, is_keys: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return views of an arena's 8-bit codes and scales, ordered by position within each block."""
    kv_heads, _, width = arena.shape
    dim = width - SCALE_BYTES
    blocks = arena.view(kv_heads, -1, LANES * width)
    numbers, scales = (
        blocks[..., : LANES * dim],
        blocks[..., LANES * dim :].view(kv_heads, -1, LANES, SCALE_BYTES),
    )
    if is_keys:
        return numbers.view(kv_heads, -1, dim // pair_size, LANES, pair_size).transpose(2, 3), scales
    return numbers.view(kv_heads, -1, LANES // pair_size, dim, pair_size).transpose(3, 4), scales
