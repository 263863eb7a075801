"""Keys or values in 4 bits, by torch: numbers to rows of bytes and back, and the blocks of the
kernels' layout.

32 numbers of a head are a group: 16 bytes, each with a number in its lower half and the one 16
behind it in its upper half, and a bfloat16 scale. A row is the bytes of all groups, then their
scales; a last group that is not full is filled up with zeros. A number is an integer from -8 to 7
times the scale, and the largest of a group is -8 times it, whatever its sign, so that all 16
integers are used. The kernels (kernels/kv_int4.h) compute the same bits.
"""

from __future__ import annotations

import torch

from runner_engine.checkpoints.kept_kv import INT4_GROUP, INT4_GROUP_BYTES
from runner_engine.kernels.kv_layers import KvCode
from runner_engine.kernels.shared_numbers import LANES

CODE = KvCode.kv_int4
LOWEST, HIGHEST = -8, 7
SMALLEST = 1e-30  # of a group's largest number; smaller ones count as 0
CODE_BYTES = INT4_GROUP // 2
SCALE_BYTES = INT4_GROUP_BYTES - CODE_BYTES


def stored_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type of a row's elements."""
    return torch.int8


def width(dim: int) -> int:
    """Return how many elements a row has."""
    return _groups(dim) * INT4_GROUP_BYTES


def to_rows(numbers: torch.Tensor) -> torch.Tensor:
    """Return numbers [..., D] as rows of bytes; the scale of a group with NaN or infinity is
    NaN."""
    groups = torch.nn.functional.pad(numbers.float(), (0, -numbers.shape[-1] % INT4_GROUP))
    groups = groups.reshape(*numbers.shape[:-1], -1, INT4_GROUP)
    high, low = groups.amax(dim=-1, keepdim=True), groups.amin(dim=-1, keepdim=True)
    most = torch.where(high >= -low, high, low)
    is_sound = groups.isfinite().all(dim=-1, keepdim=True)
    is_used = is_sound & (most.abs() >= SMALLEST)
    scale = (most / LOWEST).masked_fill_(~is_used, 0.0).to(torch.bfloat16)
    # as in C: an inverse, and then products
    one = torch.ones((), dtype=torch.float32, device=numbers.device)
    steps = groups * torch.where(is_used, one / scale.float(), 0.0)
    steps = steps.nan_to_num_(0.0).round_().clamp_(LOWEST, HIGHEST).to(torch.int8)
    steps = steps.view(*numbers.shape[:-1], -1, 2, CODE_BYTES)
    codes = steps[..., 0, :] & 15 | steps[..., 1, :] << 4
    scale = scale.masked_fill_(~is_sound, torch.nan).squeeze(-1).contiguous()
    return torch.cat((codes.flatten(-2), scale.view(torch.int8)), dim=-1)


def to_numbers(rows: torch.Tensor, dim: int, dtype: torch.dtype) -> torch.Tensor:
    """Return the numbers [..., D] of rows of bytes."""
    codes, scales = (rows[..., : -_groups(dim) * SCALE_BYTES], rows[..., -_groups(dim) * SCALE_BYTES :])
    codes = codes.reshape(*rows.shape[:-1], -1, 1, CODE_BYTES)
    steps = torch.cat((codes << 4 >> 4, codes >> 4), dim=-2).flatten(-2).float()
    scale = scales.contiguous().view(torch.bfloat16).float()
    return (steps * scale[..., None]).flatten(-2)[..., :dim].to(dtype)


def rows_of_blocks(arena: torch.Tensor, dim: int, pair: int, is_keys: bool) -> torch.Tensor:
    """Return the rows [KVH, places, W] of whole blocks, as a copy."""
    kv_heads, places, _ = arena.shape
    codes, scales = _by_place(arena, dim, is_keys)
    return torch.cat((codes.reshape(kv_heads, places, -1), scales.reshape(kv_heads, places, -1)), dim=-1)


def put_rows(arena: torch.Tensor, rows: torch.Tensor, dim: int, pair: int, is_keys: bool) -> None:
    """Put rows [KVH, places, W] into the first places."""
    rows = torch.nn.functional.pad(rows, (0, 0, 0, -rows.shape[1] % LANES))
    codes, scales = _by_place(arena[:, : rows.shape[1]], dim, is_keys)
    of_codes = _groups(dim) * CODE_BYTES
    codes.copy_(rows[..., :of_codes].reshape(codes.shape))
    scales.copy_(rows[..., of_codes:].reshape(scales.shape))


def _by_place(arena: torch.Tensor, dim: int, is_keys: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return views of an arena's codes and scales, place by place within each block."""
    kv_heads, _, wide = arena.shape
    groups = _groups(dim)
    blocks, of_codes = arena.view(kv_heads, -1, LANES * wide), LANES * groups * CODE_BYTES
    codes, scales = blocks[..., :of_codes], blocks[..., of_codes:]
    scales = scales.view(kv_heads, -1, groups, LANES, SCALE_BYTES).transpose(2, 3)
    if is_keys:
        return codes.view(kv_heads, -1, groups * CODE_BYTES, LANES).transpose(2, 3), scales
    return codes.view(kv_heads, -1, LANES, groups * CODE_BYTES), scales


def _groups(dim: int) -> int:
    return -(-dim // INT4_GROUP)
