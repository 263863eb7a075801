"""KV format with 4 bits per element: quantization in torch, and the block layout of the C kernels.

32 values of a head are a group: 16 bytes, each with one value in its lower half and the
value 16 further in its upper half, and a bfloat16 scale. A stored vector is the bytes of
all groups and then their scales. An incomplete last group is padded with zeros. A value
is an integer from -8 to 7 times the scale. The largest value of a group is -8 times the
scale, whatever its sign, so that all 16 integers are used. The kernels
(kernels/kv_int4.h) compute the same bits.
"""

from __future__ import annotations

import torch

from runner_engine.checkpoints.kv_size import INT4_GROUP, INT4_GROUP_BYTES
from runner_engine.kernels.c_interface import LANES
from runner_engine.kernels.kv_layers import KvCode

CODE = KvCode.kv_int4
LOWEST, HIGHEST = -8, 7
SMALLEST = 1e-30  # of a group's largest number; smaller ones count as 0
CODE_BYTES = INT4_GROUP // 2
SCALE_BYTES = INT4_GROUP_BYTES - CODE_BYTES


def stored_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.int8


def stored_width(head_dim: int) -> int:
    return _count_scale_groups(head_dim) * INT4_GROUP_BYTES


def encode_kv(values: torch.Tensor) -> torch.Tensor:
    """Quantize keys or values [..., D] to stored bytes. Groups with NaN or infinity get a NaN scale."""
    groups = torch.nn.functional.pad(values.float(), (0, -values.shape[-1] % INT4_GROUP))
    groups = groups.reshape(*values.shape[:-1], -1, INT4_GROUP)
    high, low = groups.amax(dim=-1, keepdim=True), groups.amin(dim=-1, keepdim=True)
    most = torch.where(high >= -low, high, low)
    is_sound = groups.isfinite().all(dim=-1, keepdim=True)
    is_used = is_sound & (most.abs() >= SMALLEST)
    scale = (most / LOWEST).masked_fill_(~is_used, 0.0).to(torch.bfloat16)
    # as in C: an inverse, and then products
    one = torch.ones((), dtype=torch.float32, device=values.device)
    steps = groups * torch.where(is_used, one / scale.float(), 0.0)
    steps = steps.nan_to_num_(0.0).round_().clamp_(LOWEST, HIGHEST).to(torch.int8)
    steps = steps.view(*values.shape[:-1], -1, 2, CODE_BYTES)
    codes = steps[..., 0, :] & 15 | steps[..., 1, :] << 4
    scale = scale.masked_fill_(~is_sound, torch.nan).squeeze(-1).contiguous()
    return torch.cat((codes.flatten(-2), scale.view(torch.int8)), dim=-1)


def decode_kv(stored: torch.Tensor, head_dim: int, dtype: torch.dtype) -> torch.Tensor:
    codes, scales = (
        stored[..., : -_count_scale_groups(head_dim) * SCALE_BYTES],
        stored[..., -_count_scale_groups(head_dim) * SCALE_BYTES :],
    )
    codes = codes.reshape(*stored.shape[:-1], -1, 1, CODE_BYTES)
    steps = torch.cat((codes << 4 >> 4, codes >> 4), dim=-2).flatten(-2).float()
    scale = scales.contiguous().view(torch.bfloat16).float()
    return (steps * scale[..., None]).flatten(-2)[..., :head_dim].to(dtype)


def read_kv_blocks(arena: torch.Tensor, head_dim: int, pair_size: int, is_keys: bool) -> torch.Tensor:
    kv_heads, places, _ = arena.shape
    codes, scales = _view_arena_by_position(arena, head_dim, is_keys)
    return torch.cat((codes.reshape(kv_heads, places, -1), scales.reshape(kv_heads, places, -1)), dim=-1)


def write_kv_blocks(
    arena: torch.Tensor, stored: torch.Tensor, head_dim: int, pair_size: int, is_keys: bool
) -> None:
    stored = torch.nn.functional.pad(stored, (0, 0, 0, -stored.shape[1] % LANES))
    codes, scales = _view_arena_by_position(arena[:, : stored.shape[1]], head_dim, is_keys)
    of_codes = _count_scale_groups(head_dim) * CODE_BYTES
    codes.copy_(stored[..., :of_codes].reshape(codes.shape))
    scales.copy_(stored[..., of_codes:].reshape(scales.shape))


def _view_arena_by_position(
    arena: torch.Tensor, head_dim: int, is_keys: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return views of an arena's 4-bit codes and scales, ordered by position within each block."""
    kv_heads, _, wide = arena.shape
    groups = _count_scale_groups(head_dim)
    blocks, of_codes = arena.view(kv_heads, -1, LANES * wide), LANES * groups * CODE_BYTES
    codes, scales = blocks[..., :of_codes], blocks[..., of_codes:]
    scales = scales.view(kv_heads, -1, groups, LANES, SCALE_BYTES).transpose(2, 3)
    if is_keys:
        return codes.view(kv_heads, -1, groups * CODE_BYTES, LANES).transpose(2, 3), scales
    return codes.view(kv_heads, -1, LANES, groups * CODE_BYTES), scales


def _count_scale_groups(head_dim: int) -> int:
    return -(-head_dim // INT4_GROUP)
