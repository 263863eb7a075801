"""Interleaves quantized codes into groups of four bytes, the layout that kernels/blocks.h reads.

The lowest bits of the four bytes hold four neighbouring codes, the next bits the
following four codes, and so on.
"""

from __future__ import annotations

import torch


def pack_interleaved_codes(codes: torch.Tensor, bits: int, group_bytes: int = 4) -> torch.Tensor:
    """Pack quantized codes of `bits` bits each into groups of `group_bytes` bytes.

    The result has the shape [..., n * bits / 8 / group_bytes, group_bytes].
    """
    count = 8 // bits
    parts = codes.reshape(*codes.shape[:-1], -1, count, group_bytes)
    result: torch.Tensor = parts[..., 0, :].clone()
    for place in range(1, count):
        result |= parts[..., place, :] << place * bits
    return result


def unpack_interleaved_codes(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """Unpack quantized codes of `bits` bits each. This is the inverse of pack_interleaved_codes."""
    mask = (1 << bits) - 1
    return torch.stack([packed >> place * bits & mask for place in range(8 // bits)], dim=-2).flatten(-3)
