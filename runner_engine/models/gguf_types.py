"""Block types of .gguf files, and functions that split blocks into scales and weight bits.

A block holds neighbouring weights of one output: a scale in float16, for some types the scales of
its sub-blocks and an offset to subtract, and 2 to 8 bits for each weight. The kernels have the same
types (kernels/blocks.h).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from runner_engine.models.grouped_linear import ROW_BLOCK, ROW_PART


class BlockParts(NamedTuple):
    """The scales, sub-block scales and quantized bits of .gguf blocks, as tensors of shape
    [outputs, blocks, …].
    """

    # uint8 [outputs, blocks, 2 or 4]: float16 of the scale, and of what is subtracted
    scales: torch.Tensor
    # uint8 [outputs, blocks, bytes]: parts' scales, in the order of blocks.h; no bytes: none
    of_parts: torch.Tensor
    bits: torch.Tensor  # uint8 [outputs, blocks, inputs]: the bits of each weight


@dataclass(frozen=True)
class BitPlane:
    """Where a block stores some bits of each weight, in runs of bytes.

    The lowest bits of a run's bytes belong to its first weights, one weight a byte, the next bits to
    the weights after these.
    """

    at: int  # the first byte in a block
    run: int  # bytes


@dataclass(frozen=True)
class BlockType:
    """Storage of a .gguf block type: its type number, the bytes of a block, and the bits per weight."""

    number: int
    inputs: int  # of a block
    stored_bytes: int
    low: int
    high: int
    part: int  # inputs of a part
    offset: int
    take_apart: Callable[[torch.Tensor], BlockParts]
    has_signed_parts: bool = False
    scales_at: int = 0  # the byte of a block at which the scales are
    scales: int = 1  # with what is subtracted: 2
    # those of the lower and of the upper bits, if both are stored in runs and blocks have an even size
    planes: tuple[BitPlane, ...] = ()
    take_parts: Callable[[torch.Tensor], torch.Tensor] | None = None  # of_parts alone

    @property
    def activation_group(self) -> int:
        """Number of neighbouring activations that share a scale: 256 for block types of 256 weights,
        otherwise 32.
        """
        return ROW_BLOCK if self.inputs == ROW_BLOCK else ROW_PART

    @property
    def packed_block_nbytes(self) -> int:
        """Bytes of one .gguf block after repacking for the C kernels."""
        parts = self.take_apart(torch.zeros(1, 1, self.stored_bytes, dtype=torch.uint8))
        return parts.scales.shape[2] + parts.of_parts.shape[2] + self.inputs * (self.low + self.high) // 8


def split_last_dim(tensor: torch.Tensor, *sizes: int) -> torch.Tensor:
    """Reshape a tensor so that its last dimension becomes several dimensions of the given sizes."""
    return tensor.reshape(*tensor.shape[:-1], *sizes)


def _unpack_nibbles(packed: torch.Tensor) -> torch.Tensor:
    """Split n bytes into 2 n 4-bit numbers: first the lower halves of all bytes, then the upper halves."""
    return torch.cat((packed & 15, packed >> 4), dim=-1)


def _extract_bits(packed: torch.Tensor, shifts: tuple[int, ...], mask: int) -> torch.Tensor:
    """Shift bytes [..., n] right by each number in `shifts`, then apply `mask`. Returns [...,
    num_shifts, n].
    """
    return torch.stack([packed >> shift & mask for shift in shifts], dim=-2)


def _build_block32_splitter(has_minimum: bool, has_fifth_bit: bool) -> Callable[[torch.Tensor], BlockParts]:
    """Return a function that splits .gguf blocks of 32 weights with 4 or 5 bits into scales and
    weight bits.
    """
    scales = 4 if has_minimum else 2

    def split_scales_and_weight_bits(blocks: torch.Tensor) -> BlockParts:
        bits = _unpack_nibbles(blocks[..., scales + 4 * has_fifth_bit :])
        if has_fifth_bit:
            fifth = (
                _extract_bits(blocks[..., scales : scales + 4], tuple(range(8)), 1)
                .transpose(-1, -2)
                .flatten(-2)
            )
            bits = bits | fifth << 4
        return BlockParts(blocks[..., :scales], blocks[..., :0], bits)

    return split_scales_and_weight_bits


def _split_q8_0_blocks(blocks: torch.Tensor) -> BlockParts:
    return BlockParts(blocks[..., :2], blocks[..., :0], blocks[..., 2:])


def _extract_q2_k_subblock_scales(blocks: torch.Tensor) -> torch.Tensor:
    return blocks[..., :16]


def _split_q2_k_blocks(blocks: torch.Tensor) -> BlockParts:
    bits, scales = blocks[..., 16:80], blocks[..., 80:]
    return BlockParts(
        scales,
        _extract_q2_k_subblock_scales(blocks),
        _extract_bits(split_last_dim(bits, 2, 32), (0, 2, 4, 6), 3).flatten(-3),
    )


def _extract_q3_k_subblock_scales(blocks: torch.Tensor) -> torch.Tensor:
    lower = _unpack_nibbles(blocks[..., 96:104])
    upper = _extract_bits(blocks[..., 104:108], (0, 2, 4, 6), 3).flatten(-2)
    return (lower | upper << 4) - 32


def _split_q3_k_blocks(blocks: torch.Tensor) -> BlockParts:
    high, bits, scale = blocks[..., :32], blocks[..., 32:96], blocks[..., 108:]
    low = _extract_bits(split_last_dim(bits, 2, 32), (0, 2, 4, 6), 3).flatten(-3)
    third = _extract_bits(high, tuple(range(8)), 1).flatten(-2)
    return BlockParts(scale, _extract_q3_k_subblock_scales(blocks), low | third << 2)


def _unpack_scales_and_minima(blocks: torch.Tensor) -> torch.Tensor:
    """Unpack the eight 6-bit scales and minima of a block from 12 bytes.

    Returns [..., 16], in which scales and minima alternate.
    """
    packed = blocks[..., 4:16]
    first, second, upper = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    scales = torch.cat((first & 63, upper & 15 | first >> 6 << 4), dim=-1)
    minima = torch.cat((second & 63, upper >> 4 | second >> 6 << 4), dim=-1)
    return torch.stack((scales, minima), dim=-1).flatten(-2)


def _split_q4_k_blocks(blocks: torch.Tensor) -> BlockParts:
    bits = _unpack_nibbles(split_last_dim(blocks[..., 16:], 4, 32)).flatten(-2)
    return BlockParts(blocks[..., :4], _unpack_scales_and_minima(blocks), bits)


def _split_q5_k_blocks(blocks: torch.Tensor) -> BlockParts:
    fifth = _extract_bits(blocks[..., 16:48], tuple(range(8)), 1).flatten(-2)
    bits = _unpack_nibbles(split_last_dim(blocks[..., 48:], 4, 32)).flatten(-2)
    return BlockParts(blocks[..., :4], _unpack_scales_and_minima(blocks), bits | fifth << 4)


def _extract_q6_k_subblock_scales(blocks: torch.Tensor) -> torch.Tensor:
    return blocks[..., 192:208]


def _split_q6_k_blocks(blocks: torch.Tensor) -> BlockParts:
    low = _extract_bits(split_last_dim(blocks[..., :128], 2, 64), (0, 4), 15).flatten(-3)
    high = _extract_bits(split_last_dim(blocks[..., 128:192], 2, 32), (0, 2, 4, 6), 3).flatten(-3)
    return BlockParts(blocks[..., 208:], _extract_q6_k_subblock_scales(blocks), low | high << 4)


def _extract_iq4_xs_subblock_scales(blocks: torch.Tensor) -> torch.Tensor:
    upper = _extract_bits(blocks[..., 2:4], (0, 2, 4, 6), 3).transpose(-1, -2).flatten(-2)
    lower = _extract_bits(blocks[..., 4:8], (0, 4), 15).transpose(-1, -2).flatten(-2)
    return (lower | upper << 4) - 32


def _split_iq4_xs_blocks(blocks: torch.Tensor) -> BlockParts:
    bits = _unpack_nibbles(split_last_dim(blocks[..., 8:], 8, 16)).flatten(-2)
    return BlockParts(blocks[..., :2], _extract_iq4_xs_subblock_scales(blocks), bits)


def _split_mxfp4_blocks(blocks: torch.Tensor) -> BlockParts:
    return BlockParts(
        _decode_mxfp4_scales(blocks[..., :1]), blocks[..., :0], _unpack_nibbles(blocks[..., 1:])
    )


def _decode_mxfp4_scales(exponents: torch.Tensor) -> torch.Tensor:
    """Convert MXFP4 exponents e to float16 scales 2 ** (e - 128), returned as bytes.

    Numbers too small for float16 become 0.
    """
    powers = torch.exp2(exponents.float() - HALVED_BIAS)
    return powers.to(torch.float16).view(torch.uint8)


HALVED_BIAS = 128  # of an exponent: 127, and 1 because the list holds twice the weights
TYPES = {
    "Q4_0": BlockType(
        2, 32, 18, 4, 0, 32, 8, _build_block32_splitter(False, False), planes=(BitPlane(2, 16),)
    ),
    "Q4_1": BlockType(
        *(3, 32, 20, 4, 0, 32, 0, _build_block32_splitter(True, False)), scales=2, planes=(BitPlane(4, 16),)
    ),
    "Q5_0": BlockType(6, 32, 22, 4, 1, 32, 16, _build_block32_splitter(False, True)),
    "Q5_1": BlockType(7, 32, 24, 4, 1, 32, 0, _build_block32_splitter(True, True), scales=2),
    "Q8_0": BlockType(8, 32, 34, 8, 0, 32, 0, _split_q8_0_blocks, planes=(BitPlane(2, 32),)),
    "Q2_K": BlockType(
        *(
            10,
            256,
            84,
            2,
            0,
            16,
            0,
            _split_q2_k_blocks,
            False,
            80,
            2,
            (BitPlane(16, 32),),
            _extract_q2_k_subblock_scales,
        )
    ),
    "Q3_K": BlockType(
        *(11, 256, 110, 2, 1, 16, 4, _split_q3_k_blocks, True, 108, 1),
        *((BitPlane(32, 32), BitPlane(0, 32)), _extract_q3_k_subblock_scales),
    ),
    "Q4_K": BlockType(
        *(12, 256, 144, 4, 0, 32, 0, _split_q4_k_blocks, False, 0, 2, (BitPlane(16, 32),)),
        _unpack_scales_and_minima,
    ),
    "Q5_K": BlockType(
        *(13, 256, 176, 4, 1, 32, 0, _split_q5_k_blocks, False, 0, 2),
        *((BitPlane(48, 32), BitPlane(16, 32)), _unpack_scales_and_minima),
    ),
    "Q6_K": BlockType(
        *(14, 256, 210, 4, 2, 16, 32, _split_q6_k_blocks, True, 208, 1),
        *((BitPlane(0, 64), BitPlane(128, 32)), _extract_q6_k_subblock_scales),
    ),
    "IQ4_NL": BlockType(
        20, 32, 18, 4, 0, 32, 0, _build_block32_splitter(False, False), planes=(BitPlane(2, 16),)
    ),
    "IQ4_XS": BlockType(
        *(23, 256, 136, 4, 0, 32, 0, _split_iq4_xs_blocks, True, 0, 1, (BitPlane(8, 16),)),
        _extract_iq4_xs_subblock_scales,
    ),
    "MXFP4": BlockType(39, 32, 17, 4, 0, 32, 0, _split_mxfp4_blocks),
}
UNEVEN = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
FLOAT4 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)  # twice the four-bit floats
# types whose bits are places in a list of weights
LISTED = {"IQ4_NL": UNEVEN, "IQ4_XS": UNEVEN, "MXFP4": FLOAT4}


def extract_block_scales(block_bytes: torch.Tensor, type_name: str) -> torch.Tensor:
    """Return the float16 scale of each .gguf block, and the minimum if the block type has one.

    The shape is [outputs, blocks, 1 or 2].
    """
    kind = TYPES[type_name]
    blocks = split_last_dim(block_bytes, -1, kind.stored_bytes)
    if type_name == "MXFP4":
        return _decode_mxfp4_scales(blocks[..., :1]).view(torch.float16)
    return blocks[..., kind.scales_at : kind.scales_at + 2 * kind.scales].contiguous().view(torch.float16)


def dequantize_blocks(block_bytes: torch.Tensor, type_name: str, inputs: int) -> torch.Tensor:
    """Dequantize .gguf blocks, uint8 [outputs, bytes], to float32 weights [outputs, inputs]."""
    kind = TYPES[type_name]
    blocks = block_bytes.view(block_bytes.shape[0], inputs // kind.inputs, kind.stored_bytes)
    _, of_parts, bits = kind.take_apart(blocks)
    both = extract_block_scales(block_bytes, type_name).float()[..., None]  # [outputs, blocks, 1 or 2, 1]
    if type_name in LISTED:
        weights = torch.tensor(LISTED[type_name], dtype=torch.float32)[bits.long()]
    else:
        weights = (bits.view(torch.int8) if type_name == "Q8_0" else bits).float() - kind.offset
    weights = split_last_dim(weights, -1, kind.part)
    scale, minimum = both[..., :1, :], both[..., 1:, :]
    if type_name == "Q2_K":
        scale, minimum = scale * (of_parts & 15)[..., None], minimum * (of_parts >> 4)[..., None]
    elif kind.has_signed_parts:
        scale = scale * of_parts.view(torch.int8)[..., None]
    elif of_parts.shape[-1]:
        scale, minimum = scale * of_parts[..., ::2, None], minimum * of_parts[..., 1::2, None]
    weights = weights * scale
    if both.shape[-2] == 2:
        weights = weights - minimum if of_parts.shape[-1] else weights + minimum
    result: torch.Tensor = weights.flatten(1)
    return result
