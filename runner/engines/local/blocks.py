"""A .gguf file's matrices, whose weights stay in blocks of 2 to 8 bits: the layout that kernels/blocks.h multiplies.

A file stores a block of one output after another. Here the blocks of the outputs of a panel lie together, byte by byte,
so that the processor unpacks one input of all of them at a time. The scales of the parts of a block, of 6 bits in some
types, get a byte each: that is 2 to 4 % of a matrix. No weight changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from runner.core.errors import DataError
from runner.engines.local.kernels.native import FORMATS, Kernels, pointer, pointer_or_none
from runner.engines.local.kernels.shared_numbers import Matrix, WeightFormat
from runner.engines.local.matrices import multiply

PACKED_AT_ONCE = 2**22  # weights, which take a byte each while they are packed


class BlockParts(NamedTuple):
    """The blocks of some outputs, taken apart: [outputs, blocks, …] each."""

    scales: torch.Tensor  # uint8 [outputs, blocks, 2 or 4]: float16 of the scale, and of what is subtracted
    of_parts: torch.Tensor  # uint8 [outputs, blocks, bytes]: parts' scales, in the order of blocks.h; no bytes: none
    bits: torch.Tensor  # uint8 [outputs, blocks, inputs]: the bits of each weight


@dataclass(frozen=True)
class BlockType:
    """How a type of blocks is stored: its number in a file, its size, and the bits that a weight has."""

    number: int
    inputs: int  # of a block
    stored_bytes: int
    low: int
    high: int
    take_apart: Callable[[torch.Tensor], BlockParts]

    @property
    def packed_bytes(self) -> int:
        """The bytes of a block here."""
        parts = self.take_apart(torch.zeros(1, 1, self.stored_bytes, dtype=torch.uint8))
        return parts.scales.shape[2] + parts.of_parts.shape[2] + self.inputs * (self.low + self.high) // 8


def _nibbles(stored: torch.Tensor) -> torch.Tensor:
    """Return the lower halves of bytes, and then the upper ones: [..., 2 n] of [..., n]."""
    return torch.cat((stored & 15, stored >> 4), dim=-1)


def _shifted(stored: torch.Tensor, shifts: tuple[int, ...], mask: int) -> torch.Tensor:
    """Return bits of bytes [..., n]: for each shift all bytes, [..., shifts, n]."""
    return torch.stack([stored >> shift & mask for shift in shifts], dim=-2)


def _of_32(has_minimum: bool, has_fifth_bit: bool) -> Callable[[torch.Tensor], BlockParts]:
    """Return what takes blocks of 32 weights of 4 or 5 bits apart."""
    scales = 4 if has_minimum else 2

    def take_apart(blocks: torch.Tensor) -> BlockParts:
        bits = _nibbles(blocks[..., scales + 4 * has_fifth_bit :])
        if has_fifth_bit:
            fifth = _shifted(blocks[..., scales : scales + 4], tuple(range(8)), 1).transpose(-1, -2).flatten(-2)
            bits = bits | fifth << 4
        return BlockParts(blocks[..., :scales], blocks[..., :0], bits)

    return take_apart


def _q8_0(blocks: torch.Tensor) -> BlockParts:
    return BlockParts(blocks[..., :2], blocks[..., :0], blocks[..., 2:])


def _q2_k(blocks: torch.Tensor) -> BlockParts:
    of_parts, bits, scales = blocks[..., :16], blocks[..., 16:80], blocks[..., 80:]
    return BlockParts(scales, of_parts, _shifted(bits.unflatten(-1, (2, 32)), (0, 2, 4, 6), 3).flatten(-3))


def _q3_k(blocks: torch.Tensor) -> BlockParts:
    high, bits, packed, scale = blocks[..., :32], blocks[..., 32:96], blocks[..., 96:108], blocks[..., 108:]
    lower = _nibbles(packed[..., :8])
    upper = _shifted(packed[..., 8:], (0, 2, 4, 6), 3).flatten(-2)
    low = _shifted(bits.unflatten(-1, (2, 32)), (0, 2, 4, 6), 3).flatten(-3)
    third = _shifted(high, tuple(range(8)), 1).flatten(-2)
    return BlockParts(scale, (lower | upper << 4) - 32, low | third << 2)


def _scales_and_minima(packed: torch.Tensor) -> torch.Tensor:
    """Return the eight scales of parts and their minima in turns, [..., 16], of 6 bits each in 12 bytes."""
    first, second, upper = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    scales = torch.cat((first & 63, upper & 15 | first >> 6 << 4), dim=-1)
    minima = torch.cat((second & 63, upper >> 4 | second >> 6 << 4), dim=-1)
    return torch.stack((scales, minima), dim=-1).flatten(-2)


def _q4_k(blocks: torch.Tensor) -> BlockParts:
    bits = _nibbles(blocks[..., 16:].unflatten(-1, (4, 32))).flatten(-2)
    return BlockParts(blocks[..., :4], _scales_and_minima(blocks[..., 4:16]), bits)


def _q5_k(blocks: torch.Tensor) -> BlockParts:
    fifth = _shifted(blocks[..., 16:48], tuple(range(8)), 1).flatten(-2)
    bits = _nibbles(blocks[..., 48:].unflatten(-1, (4, 32))).flatten(-2)
    return BlockParts(blocks[..., :4], _scales_and_minima(blocks[..., 4:16]), bits | fifth << 4)


def _q6_k(blocks: torch.Tensor) -> BlockParts:
    low = _shifted(blocks[..., :128].unflatten(-1, (2, 64)), (0, 4), 15).flatten(-3)
    high = _shifted(blocks[..., 128:192].unflatten(-1, (2, 32)), (0, 2, 4, 6), 3).flatten(-3)
    return BlockParts(blocks[..., 208:], blocks[..., 192:208], low | high << 4)


def _iq4_xs(blocks: torch.Tensor) -> BlockParts:
    upper = _shifted(blocks[..., 2:4], (0, 2, 4, 6), 3).transpose(-1, -2).flatten(-2)
    lower = _shifted(blocks[..., 4:8], (0, 4), 15).transpose(-1, -2).flatten(-2)
    bits = _nibbles(blocks[..., 8:].unflatten(-1, (8, 16))).flatten(-2)
    return BlockParts(blocks[..., :2], (lower | upper << 4) - 32, bits)


TYPES = {
    "Q4_0": BlockType(2, 32, 18, 4, 0, _of_32(False, False)),
    "Q4_1": BlockType(3, 32, 20, 4, 0, _of_32(True, False)),
    "Q5_0": BlockType(6, 32, 22, 4, 1, _of_32(False, True)),
    "Q5_1": BlockType(7, 32, 24, 4, 1, _of_32(True, True)),
    "Q8_0": BlockType(8, 32, 34, 8, 0, _q8_0),
    "Q2_K": BlockType(10, 256, 84, 2, 0, _q2_k),
    "Q3_K": BlockType(11, 256, 110, 2, 1, _q3_k),
    "Q4_K": BlockType(12, 256, 144, 4, 0, _q4_k),
    "Q5_K": BlockType(13, 256, 176, 4, 1, _q5_k),
    "Q6_K": BlockType(14, 256, 210, 4, 2, _q6_k),
    "IQ4_NL": BlockType(20, 32, 18, 4, 0, _of_32(False, False)),
    "IQ4_XS": BlockType(23, 256, 136, 4, 0, _iq4_xs),
}


@dataclass
class Blocks:
    """A matrix [outputs, inputs] in blocks, as C reads it."""

    kernels: Kernels
    kind: BlockType
    matrix: Matrix
    inputs: int
    weight: torch.Tensor  # uint8 [panels, bytes]
    bias: torch.Tensor | None

    @classmethod
    def of(
        cls, stored: torch.Tensor, kind: BlockType, inputs: int, bias: torch.Tensor | None, kernels: Kernels
    ) -> Blocks:
        """Put a file's blocks, uint8 [outputs, bytes], into panels; the last one is padded with zeros."""
        weight = packed(stored, kind, inputs, kernels.panel_width)
        outputs = stored.shape[0]
        matrix = Matrix(weight=weight.data_ptr(), outputs=outputs, kind=WeightFormat.blocks, block=kind.number)
        blocks = cls(kernels, kind, matrix, inputs, weight, bias)
        matrix.bias = None if bias is None else pointer_or_none(bias, bias.dtype, outputs)
        return blocks

    @property
    def formats(self) -> tuple[torch.dtype, ...]:
        """Rows may have any number format; a bias has the rows' own."""
        return tuple(FORMATS) if self.bias is None else (self.bias.dtype,)

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """The tensors whose addresses are in the matrix."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    def product(self, rows: torch.Tensor) -> torch.Tensor:
        """Return [..., outputs] for rows [..., inputs]."""
        return multiply(self.kernels, rows, self)

    def rows(self, ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return the weights [..., inputs] of these outputs, as an embedding looks them up."""
        import ctypes

        chosen = ids.reshape(-1).contiguous()
        result = torch.empty(chosen.numel(), self.inputs, dtype=dtype)
        self.kernels(
            "block_rows", dtype, ctypes.addressof(self.matrix), self.inputs,
            pointer(chosen, torch.int64, chosen.numel()), chosen.numel(), result.data_ptr(),
        )  # fmt: skip
        return result.view(*ids.shape, self.inputs)


def packed(stored: torch.Tensor, kind: BlockType, inputs: int, width: int) -> torch.Tensor:
    """Return a file's blocks, uint8 [outputs, bytes], in panels of `width` outputs: uint8 [panels, bytes].

    DataError where a scale is not a finite number: each weight of its block would be none.
    """
    outputs, blocks = stored.shape[0], inputs // kind.inputs
    panels = -(-outputs // width)
    result = torch.empty(panels, blocks * kind.packed_bytes * width, dtype=torch.uint8)
    some = max(1, PACKED_AT_ONCE // (inputs * width))
    for first in range(0, panels, some):
        last = min(first + some, panels)
        rows = stored[first * width : last * width]
        if rows.shape[0] < (last - first) * width:
            rows = torch.cat((rows, rows.new_zeros((last - first) * width - rows.shape[0], rows.shape[1])))
        parts = kind.take_apart(rows.view(rows.shape[0], blocks, kind.stored_bytes))
        if not parts.scales.contiguous().view(torch.float16).isfinite().all():
            raise DataError("a scale of its blocks is not a finite number")
        planes = [parts.scales.unflatten(-1, (-1, 2)), parts.of_parts[..., None]]
        planes.append(_bytes_of(parts.bits & ((1 << kind.low) - 1), kind.low)[..., None])
        if kind.high:
            planes.append(_bytes_of(parts.bits >> kind.low, kind.high)[..., None])
        # each [outputs, blocks, numbers, bytes of a number]: the outputs of a panel side by side for each number
        sides = [
            one.unflatten(0, (-1, width)).permute(0, 2, 3, 1, 4).flatten(2) for one in planes if one.shape[2]
        ]
        result[first:last] = torch.cat(sides, dim=2).flatten(1)
    return result


def _bytes_of(bits: torch.Tensor, each: int) -> torch.Tensor:
    """Put neighbouring weights of `each` bits into bytes: [..., n * each / 8] of [..., n]."""
    count = 8 // each
    parts = bits.unflatten(-1, (-1, count))
    result = parts[..., 0].clone()
    for place in range(1, count):
        result |= parts[..., place] << place * each
    return result
