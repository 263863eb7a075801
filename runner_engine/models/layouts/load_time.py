"""Layouts of weights that are quantized at load time: output-major, or packed blocks for the C kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from runner_engine.models.code_interleaving import unpack_interleaved_codes
from runner_engine.models.layouts.base import Layout, Tensors, unpack_bits

LOWEST, HIGHEST = -128, 127  # of a row's int8


@dataclass(frozen=True)
class LoadTimeLayout(Layout):
    """Layout of weights that were quantized at load time and exist only in memory.

    rows: `dynamic` means that each activation vector has its own scale and zero point, like in
    torchao.
    """

    rounding_layers: ClassVar[str] = "RoundedRowsLinear"

    def round_activations(self, tensors: Tensors, activations: torch.Tensor) -> torch.Tensor:
        """Round activations to asymmetric int8 with one scale and zero point per activation vector."""
        low, high = (
            activations.amin(-1, keepdim=True).clamp(max=0),
            activations.amax(-1, keepdim=True).clamp(min=0),
        )
        scale = ((high - low) / (HIGHEST - LOWEST)).clamp(min=torch.finfo(activations.dtype).smallest_normal)
        zero = (LOWEST - (low / scale).round_()).clamp_(LOWEST, HIGHEST)
        return (activations * (1 / scale)).round_().add_(zero).clamp_(LOWEST, HIGHEST).sub_(zero).mul_(scale)


@dataclass(frozen=True)
class OutputMajorLayout(LoadTimeLayout):
    """Stores each output's codes as a dense bit stream, with scales and zero points in separate
    tensors.
    """

    def codes(self, tensors: Tensors, first_output: int, last_output: int) -> torch.Tensor:
        return unpack_bits(tensors["codes"][first_output:last_output], self.bits, self.inputs)

    def scales(self, tensors: Tensors, first_output: int, last_output: int) -> torch.Tensor:
        return tensors["scales"][first_output:last_output]

    def zeros(self, tensors: Tensors, first_output: int, last_output: int) -> torch.Tensor:
        zeros = tensors["zero_points"]
        return zeros if zeros.numel() == 1 else zeros[first_output:last_output]


@dataclass(frozen=True)
class PackedBlockLayout(LoadTimeLayout):
    """Stores weights as packed blocks for the C kernels (matmul/groups.py), which replace the
    output-major layout.
    """

    width: int  # outputs of a panel
    planes: tuple[int, int]  # lower and upper bits of a code that are kept apart
    scale_type: torch.dtype
    zero_type: torch.dtype | None  # None: all zero points are the same
    zero_point: int
    in_fours: bool = False  # codes are in fours of bytes, 32 inputs after another

    def compute_expected_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of the packed blocks, counted in 32-bit words as the kernels read them."""
        each = self._zero_points_end_byte + self.inputs // 8 * sum(self.planes)
        return {"panels": (-(-self.outputs // self.width), each * self.width // 4)}

    def codes(self, tensors: Tensors, first_output: int, last_output: int) -> torch.Tensor:
        low, high = self.planes
        if self.in_fours:
            return self._read_interleaved_weight_codes(tensors, first_output, last_output)
        eights = self._read_byte_range(
            tensors, first_output, last_output, self._zero_points_end_byte, None, torch.uint8
        )
        eights = eights.reshape(last_output - first_output, self.inputs // 8, low + high)
        codes = unpack_interleaved_codes(eights[..., :low, None], low)
        if high:
            codes |= unpack_interleaved_codes(eights[..., low:, None], high) << low
        return codes.flatten(1)

    def _read_interleaved_weight_codes(
        self, tensors: Tensors, first_output: int, last_output: int
    ) -> torch.Tensor:
        low, high = self.planes
        words = self._read_byte_range(
            tensors, first_output, last_output, self._zero_points_end_byte, None, torch.int32
        ).contiguous()
        fours = words.view(torch.uint8).reshape(last_output - first_output, self.inputs // 32, low + high, 4)
        codes = unpack_interleaved_codes(fours[:, :, :low], low)
        if high:
            codes |= unpack_interleaved_codes(fours[:, :, low:], high) << low
        return codes.flatten(1)

    def scales(self, tensors: Tensors, first_output: int, last_output: int) -> torch.Tensor:
        return self._read_byte_range(
            tensors, first_output, last_output, 0, self._scales_end_byte, self.scale_type
        )

    def zeros(self, tensors: Tensors, first_output: int, last_output: int) -> torch.Tensor:
        if self.zero_type is None:
            return tensors["panels"].new_full((1, 1), self.zero_point, dtype=torch.uint8)
        return self._read_byte_range(
            tensors,
            first_output,
            last_output,
            self._scales_end_byte,
            self._zero_points_end_byte,
            self.zero_type,
        )

    @property
    def _scales_end_byte(self) -> int:
        return self.groups * self.scale_type.itemsize

    @property
    def _zero_points_end_byte(self) -> int:
        return self._scales_end_byte + self.groups * (
            0 if self.zero_type is None else self.zero_type.itemsize
        )

    def _read_byte_range(
        self,
        tensors: Tensors,
        first_output: int,
        last_output: int,
        begin: int,
        end: int | None,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        """Read bytes `begin` to `end` of each output as numbers of type `dtype`: [outputs, numbers]."""
        begin_panel, width = first_output // self.width, self.width
        panels = tensors["panels"].view(torch.uint8)[begin_panel : -(-last_output // width)]
        part = panels[:, begin * width : None if end is None else end * width].contiguous().view(dtype)
        of_outputs = part.reshape(len(panels), -1, width).permute(0, 2, 1).flatten(0, 1)
        return of_outputs[first_output - begin_panel * width : last_output - begin_panel * width]


def pack_bits(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Pack codes, uint8 [..., count], into a dense bit stream, int32 [..., words]. This is the
    inverse of unpack_bits.
    """
    codes = nn.functional.pad(codes, (0, -codes.shape[-1] % 32))
    if bits == 8:
        return codes.contiguous().view(torch.int32)
    eights = codes.reshape(*codes.shape[:-1], -1, 8)
    stream = torch.zeros(*eights.shape[:-1], bits, dtype=torch.uint8, device=codes.device)
    for place in range(8):
        byte, shift = divmod(place * bits, 8)
        stream[..., byte] |= eights[..., place] << shift
        if shift + bits > 8:
            stream[..., byte + 1] |= eights[..., place] >> 8 - shift
    return stream.flatten(-2).view(torch.int32)
