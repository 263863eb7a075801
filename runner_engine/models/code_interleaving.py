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


def interleave_bit_plane(stored: torch.Tensor, bits: int, run: int, result: torch.Tensor) -> None:
    """Interleave `bits` bits of each code, uint8 [panels, outputs, blocks, bytes] in runs of bytes.

    In a run of n bytes the lowest bits are those of its first n codes, the next bits those of the
    following n. Writes what pack_interleaved_codes returns of the codes, as int32 [panels, blocks,
    fours, outputs].
    """
    in_pairs = stored.stride(2) % 4 or stored.storage_offset() % 4  # blocks of a size that has no whole fours
    dtype = torch.int16 if in_pairs else torch.int32
    pieces = stored.view(dtype).view(*stored.shape[:-1], stored.shape[-1] // 4, -1).permute(0, 2, 3, 1, 4)
    count, fours = 8 // bits, run // 4
    if count == 1:
        result.view(dtype).view(pieces.shape).copy_(pieces)
        return
    words = pieces.contiguous().view(torch.int32)
    words = words.view(*words.shape[:2], -1, fours // count, count, words.shape[3])
    out = result.view(*words.shape[:3], count, fours // count, words.shape[-1])
    mask = int.from_bytes(bytes([(1 << bits) - 1] * 4), signed=True)
    for shift in range(count):
        here = out[:, :, :, shift]
        for place in range(count):
            part = (words[:, :, :, :, place] >> bits * shift).bitwise_and_(mask)
            if place:
                here |= part << bits * place
            else:
                here.copy_(part)
