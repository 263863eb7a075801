"""Keys or values in 8 bits, by torch: numbers to rows of bytes and back, and the blocks of the
kernels' layout.

A row is the `dim` bytes of a place and a head, and then the float32 scale by which they are
multiplied. The kernels (kernels/kv_int8.h) compute the same bits and keep these rows in blocks of
places.
"""

from __future__ import annotations

import torch

from runner_engine.checkpoints.kept_kv import SCALE_BYTES
from runner_engine.kernels.kv_layers import KvCode
from runner_engine.kernels.shared_numbers import LANES

CODE = KvCode.kv_int8
LARGEST = 127
SMALLEST = 1e-30  # of a row's largest number; below it, LARGEST divided by it could be infinite


def stored_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type of a row's elements."""
    return torch.int8


def width(dim: int) -> int:
    """Return how many elements a row has."""
    return dim + SCALE_BYTES


def to_rows(numbers: torch.Tensor) -> torch.Tensor:
    """Return numbers [..., D] as rows of bytes [..., D + 4]; the scale of a row with NaN or
    infinity is NaN."""
    numbers = numbers.float()
    most = numbers.abs().amax(dim=-1, keepdim=True)
    # for a number of Python, torch multiplies by the inverse
    largest = torch.full_like(most, LARGEST)
    is_sound = most < torch.inf
    factor = torch.where(is_sound & (most >= SMALLEST), largest / most, 0.0)
    scale = torch.where(most >= SMALLEST, most / largest, 0.0).masked_fill_(~is_sound, torch.nan)
    steps = (numbers * factor).round_().nan_to_num_(0.0)
    bytes_of_scale = scale.flatten().contiguous().view(torch.int8).view(*numbers.shape[:-1], SCALE_BYTES)
    return torch.cat((steps.to(torch.int8), bytes_of_scale), dim=-1)


def to_numbers(rows: torch.Tensor, dim: int, dtype: torch.dtype) -> torch.Tensor:
    """Return the numbers [..., D] of rows of bytes [..., D + 4]."""
    scale = rows[..., -SCALE_BYTES:].contiguous().view(torch.float32)
    return (rows[..., :-SCALE_BYTES].float() * scale).to(dtype)


def rows_of_blocks(arena: torch.Tensor, dim: int, pair: int, is_keys: bool) -> torch.Tensor:
    """Return the rows [KVH, places, D + 4] of whole blocks, as a copy."""
    numbers, scales = _by_place(arena, pair, is_keys)
    kv_heads, places, width = arena.shape
    return torch.cat(
        (
            numbers.reshape(kv_heads, places, width - SCALE_BYTES),
            scales.reshape(kv_heads, places, SCALE_BYTES),
        ),
        dim=-1,
    )


def put_rows(arena: torch.Tensor, rows: torch.Tensor, dim: int, pair: int, is_keys: bool) -> None:
    """Put rows [KVH, places, D + 4] into the first places."""
    rows = torch.nn.functional.pad(rows, (0, 0, 0, -rows.shape[1] % LANES))
    numbers, scales = _by_place(arena[:, : rows.shape[1]], pair, is_keys)
    numbers.copy_(rows[..., :-SCALE_BYTES].reshape(numbers.shape))
    scales.copy_(rows[..., -SCALE_BYTES:].reshape(scales.shape))


def _by_place(arena: torch.Tensor, pair: int, is_keys: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return views of an arena's bytes and scales, place by place within each block."""
    kv_heads, _, width = arena.shape
    dim = width - SCALE_BYTES
    blocks = arena.view(kv_heads, -1, LANES * width)
    numbers, scales = (
        blocks[..., : LANES * dim],
        blocks[..., LANES * dim :].view(kv_heads, -1, LANES, SCALE_BYTES),
    )
    if is_keys:
        return numbers.view(kv_heads, -1, dim // pair, LANES, pair).transpose(2, 3), scales
    return numbers.view(kv_heads, -1, LANES // pair, dim, pair).transpose(3, 4), scales
