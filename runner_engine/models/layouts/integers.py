"""GPTQ, AWQ and packed compressed-tensors: dense streams of bits in int32, whose bits and groups
follow from shapes."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from torch import nn

from runner_base.notes import Note, note
from runner_engine.checkpoints.weight_files import Tensor
from runner_engine.models.layouts.base import (
    MAX_INPUTS,
    ORDERS,
    SCALES,
    WORDS,
    StoredLayout,
    Tensors,
    Types,
    unpack_stream,
    wrong,
)
from runner_engine.quantization.grouped import GroupSettings

AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)  # of eight outputs in a word that has 0, 2, 4, 6, 1, 3, 5, 7


@dataclass(frozen=True)
class IntegersLayout(StoredLayout):
    """What the three have in common."""

    is_minus_one: bool = field(default=False, kw_only=True)  # zero points are stored minus one
    groups_at: ClassVar[int] = 0  # in the shape of the scales
    optional: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def of(cls, settings: GroupSettings, found: dict[str, Tensor], module: nn.Linear) -> Self:
        """A layer may have another group size than the settings say."""
        cls.check_present(found, [name for name in cls.types if name not in cls.optional])
        codes, scales, inputs = (found[next(iter(cls.types))], found[cls.scale_name], module.in_features)
        if len(scales.shape) != 2 or len(codes.shape) != 2 or inputs >= MAX_INPUTS:
            raise wrong(codes, f"{list(codes.shape)} with scales {list(scales.shape)}: matrices expected")
        groups = scales.shape[cls.groups_at]
        bits = cls.bits_of(settings, codes, inputs)
        group = inputs if settings.group == -1 else min(settings.group, inputs)
        if groups < 1 or (-(-inputs // group) != groups and inputs % groups):
            raise wrong(scales, f"{list(scales.shape)} for {inputs} inputs in groups of {group}")
        if -(-inputs // group) != groups:
            group = inputs // groups  # the layer has settings of its own
        layout = cls(bits, group, inputs, module.out_features, is_minus_one=settings.is_minus_one)
        return layout.checked(found, {name: [expected] for name, expected in layout.shapes().items()})

    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes that these tensors must have."""

    @classmethod
    def bits_of(cls, settings: GroupSettings, codes: Tensor, inputs: int) -> int:  # noqa: ARG003
        """Return the bits of a layer's codes, which follow from their size."""
        return 4

    def problem(self, stored: Tensors, name: str, tensor: torch.Tensor) -> Note | None:
        """Groups must exist; -1 of all inputs is the format's word for none."""
        if name == self.order_name and not bool((tensor == -1).all()):
            low, high = int(tensor.min()), int(tensor.max())
            if low < 0 or high >= self.groups:
                return note("no_such_group", group=low if low < 0 else high, groups=self.groups)
        return super().problem(stored, name, tensor)


@dataclass(frozen=True)
class GptqLayout(IntegersLayout):
    """GPTQ: codes one below another along inputs, zero points along outputs, stored minus one in
    its first version."""

    types: ClassVar[dict[str, Types]] = {"qweight": WORDS, "qzeros": WORDS, "scales": SCALES, "g_idx": ORDERS}
    scale_name: ClassVar[str] = "scales"
    order_name: ClassVar[str] = "g_idx"
    optional: ClassVar[tuple[str, ...]] = ("g_idx",)

    @classmethod
    def bits_of(cls, settings: GroupSettings, codes: Tensor, inputs: int) -> int:  # noqa: ARG003
        """Codes fill whole words."""
        bits, rest = divmod(codes.shape[0] * 32, inputs)
        if rest or bits not in range(2, 9):
            raise wrong(codes, f"{list(codes.shape)} for {inputs} inputs: 2 to 8 bits of each expected")
        return bits

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
class AwqLayout(IntegersLayout):
    """AWQ's gemm: eight outputs in a word, the even ones first."""

    types: ClassVar[dict[str, Types]] = {"qweight": WORDS, "qzeros": WORDS, "scales": SCALES}
    scale_name: ClassVar[str] = "scales"

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
        return _in_order(stored["qweight"], first, last)

    def scales(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """Outputs lie side by side."""
        return stored["scales"][:, first:last].T

    def zeros(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """In the order of the codes."""
        return _in_order(stored["qzeros"], first, last)


@dataclass(frozen=True)
class PackedLayout(IntegersLayout):
    """compressed-tensors' pack-quantized: codes along inputs, zero points along outputs, both
    without a sign."""

    types: ClassVar[dict[str, Types]] = {
        "weight_packed": WORDS,
        "weight_scale": SCALES,
        "weight_zero_point": WORDS,
        "weight_g_idx": ORDERS,
        "weight_shape": ORDERS,
    }
    scale_name: ClassVar[str] = "weight_scale"
    order_name: ClassVar[str] = "weight_g_idx"
    groups_at: ClassVar[int] = 1
    optional: ClassVar[tuple[str, ...]] = ("weight_g_idx", "weight_zero_point")

    @classmethod
    def bits_of(cls, settings: GroupSettings, codes: Tensor, inputs: int) -> int:
        """Return the one of the settings' bits that fits."""
        fitting = [bits for bits in settings.bits if -(-inputs * bits // 32) == codes.shape[1]]
        if not fitting:
            bits = " or ".join(map(str, settings.bits))
            raise wrong(codes, f"{list(codes.shape)} for {inputs} inputs of {bits} bits")
        return fitting[0]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The last word of an output may be partly used."""
        return {
            "weight_packed": (self.outputs, -(-self.inputs * self.bits // 32)),
            "weight_scale": (self.outputs, self.groups),
            "weight_zero_point": (-(-self.outputs * self.bits // 32), self.groups),
            "weight_g_idx": (self.inputs,),
            "weight_shape": (2,),
        }

    def zeros(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """Symmetric weights have none: then the code of zero is half the range."""
        if "weight_zero_point" not in stored:
            return stored["weight_scale"].new_full((1, 1), 2 ** (self.bits - 1), dtype=torch.uint8)
        return _some(stored["weight_zero_point"].T, self.bits, first, last).T

    def problem(self, stored: Tensors, name: str, tensor: torch.Tensor) -> Note | None:
        """The shape that it holds must be the layer's."""
        if name == "weight_shape" and tensor.tolist() != [self.outputs, self.inputs]:
            return note("other_shape", stored=tensor.tolist(), shape=[self.outputs, self.inputs])
        return super().problem(stored, name, tensor)


def _some(words: torch.Tensor, bits: int, first: int, last: int) -> torch.Tensor:
    """Return the numbers from `first` to `last` of a stream; 32 of them are in whole words."""
    begin = first // 32
    piece = words[..., begin * bits : -(-last // 32) * bits]
    return unpack_stream(piece, bits, last - begin * 32)[..., first - begin * 32 :]


def _in_order(words: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """Return AWQ's numbers of some outputs, uint8 [outputs, …]."""
    begin = first // 8
    some = words[:, begin : -(-last // 8)]
    numbers = (
        unpack_stream(some, 4, some.shape[-1] * 8).reshape(len(words), -1, 8)[..., AWQ_PLACES].flatten(-2)
    )
    return numbers.T[first - begin * 8 : last - begin * 8]
