"""Layouts of codes that are made while loading: in rows, and in the panels that the engine's
kernels multiply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from runner_engine.models.fours import of_fours
from runner_engine.models.layouts.base import Layout, Tensors, unpack_stream

LOWEST, HIGHEST = -128, 127  # of a row's int8


@dataclass(frozen=True)
class MadeLayout(Layout):
    """A layout that no file has; rows: dynamic, each with a scale and a zero point of its own, as
    torchao has them."""

    rounding_layers: ClassVar[str] = "RoundedRowsLinear"

    def prepared(self, stored: Tensors, rows: torch.Tensor) -> torch.Tensor:
        """Return rows as the numbers that their int8 stand for."""
        low, high = (rows.amin(-1, keepdim=True).clamp(max=0), rows.amax(-1, keepdim=True).clamp(min=0))
        scale = ((high - low) / (HIGHEST - LOWEST)).clamp(min=torch.finfo(rows.dtype).smallest_normal)
        zero = (LOWEST - (low / scale).round_()).clamp_(LOWEST, HIGHEST)
        return (rows * (1 / scale)).round_().add_(zero).clamp_(LOWEST, HIGHEST).sub_(zero).mul_(scale)


@dataclass(frozen=True)
class RowsLayout(MadeLayout):
    """One output after another: its codes in a dense stream of bits, its scales and its zero
    points."""

    def codes(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """One output after another."""
        return unpack_stream(stored["codes"][first:last], self.bits, self.inputs)

    def scales(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """One output after another."""
        return stored["scales"][first:last]

    def zeros(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """One output after another, unless all are the same."""
        zeros = stored["zero_points"]
        return zeros if zeros.numel() == 1 else zeros[first:last]


@dataclass(frozen=True)
class PanelsLayout(MadeLayout):
    """The panels of runner_engine/matmul/groups.py, in place of the rows that they were made of."""

    width: int  # outputs of a panel
    planes: tuple[int, int]  # lower and upper bits of a code that are kept apart
    scale_type: torch.dtype
    zero_type: torch.dtype | None  # None: all zero points are the same
    zero_point: int
    in_fours: bool = False  # codes are in fours of bytes, 32 inputs after another

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape in words, as the kernels read them."""
        each = self._zeros_end + self.inputs // 8 * sum(self.planes)
        return {"panels": (-(-self.outputs // self.width), each * self.width // 4)}

    def codes(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """Lower and upper bits of eight inputs at a time, or of 32."""
        low, high = self.planes
        if self.in_fours:
            return self._codes_of_fours(stored, first, last)
        eights = self._numbers(stored, first, last, self._zeros_end, None, torch.uint8)
        eights = eights.reshape(last - first, self.inputs // 8, low + high)
        codes = of_fours(eights[..., :low, None], low)
        if high:
            codes |= of_fours(eights[..., low:, None], high) << low
        return codes.flatten(1)

    def _codes_of_fours(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        low, high = self.planes
        words = self._numbers(stored, first, last, self._zeros_end, None, torch.int32).contiguous()
        fours = words.view(torch.uint8).reshape(last - first, self.inputs // 32, low + high, 4)
        codes = of_fours(fours[:, :, :low], low)
        if high:
            codes |= of_fours(fours[:, :, low:], high) << low
        return codes.flatten(1)

    def scales(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """Group by group."""
        return self._numbers(stored, first, last, 0, self._scales_end, self.scale_type)

    def zeros(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """Group by group, unless all are the same."""
        if self.zero_type is None:
            return stored["panels"].new_full((1, 1), self.zero_point, dtype=torch.uint8)
        return self._numbers(stored, first, last, self._scales_end, self._zeros_end, self.zero_type)

    @property
    def _scales_end(self) -> int:
        return self.groups * self.scale_type.itemsize

    @property
    def _zeros_end(self) -> int:
        return self._scales_end + self.groups * (0 if self.zero_type is None else self.zero_type.itemsize)

    def _numbers(
        self, stored: Tensors, first: int, last: int, begin: int, end: int | None, dtype: torch.dtype
    ) -> torch.Tensor:
        """Return what lies between two places of each output, counted in its own bytes: [outputs,
        numbers]."""
        begin_panel, width = first // self.width, self.width
        panels = stored["panels"].view(torch.uint8)[begin_panel : -(-last // width)]
        part = panels[:, begin * width : None if end is None else end * width].contiguous().view(dtype)
        of_outputs = part.reshape(len(panels), -1, width).permute(0, 2, 1).flatten(0, 1)
        return of_outputs[first - begin_panel * width : last - begin_panel * width]


def pack_stream(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Return the dense stream of bits of codes, uint8 [..., count], in int32 [..., words]: see
    unpack_stream."""
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
