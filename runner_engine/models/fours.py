"""Codes of a few bits in fours of bytes, in which order processors multiply them by rows in bytes
(kernels/blocks.h).

The lowest bits of a four's bytes are those of four neighbouring codes, the next ones those of the
four codes after these, and so on.
"""

from __future__ import annotations

import torch


def fours_of(codes: torch.Tensor, each: int, side: int = 4) -> torch.Tensor:
    """Put codes of `each` bits into fours of bytes, or other numbers side by side: [..., n * each /
    8 / side, side]."""
    count = 8 // each
    parts = codes.reshape(*codes.shape[:-1], -1, count, side)
    result: torch.Tensor = parts[..., 0, :].clone()
    for place in range(1, count):
        result |= parts[..., place, :] << place * each
    return result


def of_fours(fours: torch.Tensor, each: int) -> torch.Tensor:
    """Return the codes of `each` bits that are in fours of bytes, or other numbers: the inverse of
    fours_of."""
    mask = (1 << each) - 1
    return torch.stack([fours >> place * each & mask for place in range(8 // each)], dim=-2).flatten(-3)
