"""How formats lay out integers with a scale for each group of inputs: the places of codes, scales and zero points.

All are dense streams of bits in int32, lowest bits first. A weight is (code - zero point) * scale of its group.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)  # of eight outputs in a word that has 0, 2, 4, 6, 1, 3, 5, 7

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Layout(ABC):
    """The tensors of one layer, by the ends of their names."""

    bits: int
    group: int  # inputs that share a scale
    inputs: int
    outputs: int
    names: ClassVar[tuple[str, ...]]  # the first is the codes'
    scale_name: ClassVar[str]
    order_name: ClassVar[str]
    named_by: ClassVar[str] = ""  # the tensor that only such a layer has, if not that of the codes

    @property
    def groups(self) -> int:
        """The number of groups of each output; the last may have fewer inputs."""
        return -(-self.inputs // self.group)

    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes that these tensors must have."""

    @abstractmethod
    def codes(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """Return the codes of some outputs, uint8 [outputs, inputs]."""

    @abstractmethod
    def scales(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """Return their scales, [outputs, groups], in float32 or in 16 bits."""

    @abstractmethod
    def zeros(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """Return their zero points, uint8 or as the scales [outputs, groups], or [1, 1] where all are the same."""

    @property
    def values(self) -> torch.Tensor | None:
        """What each code stands for, float32; None: the number that it is, less its zero point."""
        return None


@dataclass(frozen=True)
class GptqLayout(Layout):
    """GPTQ: codes one below another along inputs, zero points along outputs, stored minus one in its first version."""

    is_minus_one: bool
    names: ClassVar[tuple[str, ...]] = ("qweight", "qzeros", "scales", "g_idx")
    scale_name: ClassVar[str] = "scales"
    order_name: ClassVar[str] = "g_idx"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Codes and zero points fill whole words."""
        return {
            "qweight": (self.inputs * self.bits // 32, self.outputs),
            "qzeros": (self.groups, self.outputs * self.bits // 32),
            "scales": (self.groups, self.outputs),
            "g_idx": (self.inputs,),
        }

    def codes(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """Words hold neighbouring inputs."""
        return unpack_stream(stored["qweight"][:, first:last].T.contiguous(), self.bits, self.inputs)

    def scales(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """Outputs lie side by side."""
        return stored["scales"][:, first:last].T

    def zeros(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """The one is added within the bits of a zero point, as AutoGPTQ does."""
        zeros = _some(stored["qzeros"], self.bits, first, last).T
        return zeros + 1 & 2**self.bits - 1 if self.is_minus_one else zeros


@dataclass(frozen=True)
class AwqLayout(Layout):
    """AWQ's gemm: eight outputs in a word, the even ones first."""

    names: ClassVar[tuple[str, ...]] = ("qweight", "qzeros", "scales")
    scale_name: ClassVar[str] = "scales"
    order_name: ClassVar[str] = ""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Outputs are packed."""
        words = self.outputs // 8
        return {
            "qweight": (self.inputs, words),
            "qzeros": (self.groups, words),
            "scales": (self.groups, self.outputs),
        }

    def codes(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """Whole words are unpacked."""
        begin = first // 8
        return _in_order(stored["qweight"][:, begin : -(-last // 8)]).T[first - begin * 8 : last - begin * 8]

    def scales(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """Outputs lie side by side."""
        return stored["scales"][:, first:last].T

    def zeros(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """In the order of the codes."""
        begin = first // 8
        return _in_order(stored["qzeros"][:, begin : -(-last // 8)]).T[first - begin * 8 : last - begin * 8]


@dataclass(frozen=True)
class PackedLayout(Layout):
    """compressed-tensors' pack-quantized: codes along inputs, zero points along outputs, both without a sign."""

    names: ClassVar[tuple[str, ...]] = (
        "weight_packed", "weight_scale", "weight_zero_point", "weight_g_idx", "weight_shape",
    )  # fmt: skip
    scale_name: ClassVar[str] = "weight_scale"
    order_name: ClassVar[str] = "weight_g_idx"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The last word of an output may be partly used."""
        return {
            "weight_packed": (self.outputs, -(-self.inputs * self.bits // 32)),
            "weight_scale": (self.outputs, self.groups),
            "weight_zero_point": (-(-self.outputs * self.bits // 32), self.groups),
            "weight_g_idx": (self.inputs,),
            "weight_shape": (2,),
        }

    def codes(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """One output after another."""
        return unpack_stream(stored["weight_packed"][first:last], self.bits, self.inputs)

    def scales(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """One output after another."""
        return stored["weight_scale"][first:last]

    def zeros(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """Symmetric weights have none: then the code of zero is half the range."""
        if "weight_zero_point" not in stored:
            return stored["weight_scale"].new_full((1, 1), 2 ** (self.bits - 1), dtype=torch.uint8)
        return _some(stored["weight_zero_point"].T, self.bits, first, last).T


def unpack_stream(words: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """Return `count` numbers of so many bits, uint8 [..., count], of a stream in int32 [..., words]."""
    stream = words.contiguous().view(torch.uint8)
    if bits == 8:
        return stream[..., :count]
    if bits == 4:
        return torch.stack((stream & 15, stream >> 4), dim=-1).flatten(-2)[..., :count]
    # eight numbers are in `bits` bytes
    stream = torch.nn.functional.pad(stream, (0, -stream.shape[-1] % bits))
    stream = stream.reshape(*stream.shape[:-1], -1, bits)
    numbers = torch.empty(*stream.shape[:-1], 8, dtype=torch.uint8, device=words.device)
    for place in range(8):
        byte, shift = divmod(place * bits, 8)
        number = stream[..., byte] >> shift
        if shift + bits > 8:
            number |= stream[..., byte + 1] << 8 - shift
        numbers[..., place] = number & 2**bits - 1
    return numbers.flatten(-2)[..., :count]


def _some(words: torch.Tensor, bits: int, first: int, last: int) -> torch.Tensor:
    """Return the numbers from `first` to `last` of a stream; 32 of them are in whole words."""
    begin = first // 32
    piece = words[..., begin * bits : -(-last // 32) * bits]
    return unpack_stream(piece, bits, last - begin * 32)[..., first - begin * 32 :]


def _in_order(words: torch.Tensor) -> torch.Tensor:
    """Return AWQ's numbers, uint8 [..., outputs], in the order of outputs."""
    numbers = unpack_stream(words.contiguous(), 4, words.shape[-1] * 8)
    return numbers.reshape(*numbers.shape[:-1], -1, 8)[..., AWQ_PLACES].flatten(-2)
