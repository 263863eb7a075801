"""How a format lays out codes with a scale for each group of inputs: its tensors, what they must
be, and their numbers.

A weight is (code - zero point) * scale of its group, or the value that its code stands for, times
the scale. Tensors stay as the checkpoint has them, in its mapped file. A layout finds codes, scales
and zero points in them, for whoever multiplies them. Headers are checked before anything is read,
and numbers after they were loaded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from torch import nn

from runner_base import DataError
from runner_base.errors import Code
from runner_base.notes import Note, note
from runner_engine.checkpoints.weight_files import Tensor
from runner_engine.quantization.grouped import GroupSettings

Tensors = Mapping[str, torch.Tensor]
Types = dict[str, torch.dtype]  # number formats by their names in files
Shapes = list[tuple[int, ...]]

SCALES: Types = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
WORDS: Types = {"I32": torch.int32}
ORDERS: Types = {"I32": torch.int32, "I64": torch.int64}
CODES = ("I8", "U8", "I32", "F8_E4M3", "F8_E5M2")  # formats that no plain weight has
ONE_NUMBER: Shapes = [(), (1,), (1, 1)]
MAX_INPUTS = 2**24  # a layer's inputs and groups are counted in numbers that C can hold


@dataclass(frozen=True)
class Layout(ABC):
    """Where the codes, scales and zero points of one layer are in its tensors."""

    bits: int
    group: int  # inputs that share a scale
    inputs: int
    outputs: int
    # how rows are rounded before they are multiplied; empty: they are not
    rows: str = field(default="", kw_only=True)
    order_name: ClassVar[str] = ""  # the tensor that has the group of each input
    rounding_layers: ClassVar[str] = ""  # what reports call layers that round their rows

    @property
    def groups(self) -> int:
        """The number of groups of each output; the last may have fewer inputs."""
        return -(-self.inputs // self.group)

    @property
    def values(self) -> torch.Tensor | None:
        """What each code stands for, float32; None: the number that it is, less its zero point."""
        return None

    @abstractmethod
    def codes(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """Return the codes of some outputs, uint8 [outputs, inputs]."""

    @abstractmethod
    def scales(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """Return their scales, [outputs, groups], in float32 or in 16 bits."""

    def panel_scales(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """Return them in the format in which the kernels read them: one of SCALE_TYPES of
        groups.py."""
        return self.scales(stored, first, last)

    def scale_divisor(self, stored: Tensors) -> float:
        """Return by what scales in float8 are divided."""
        return 1.0

    @abstractmethod
    def zeros(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """Return their zero points, uint8 or as the scales [outputs, groups], or [1, 1] where all
        are the same."""

    def prepared(self, stored: Tensors, rows: torch.Tensor) -> torch.Tensor:
        """Return rows as the numbers that they are rounded to, in their own number format."""
        return rows


@dataclass(frozen=True)
class StoredLayout(Layout):
    """A layout of checkpoints: also which tensors it reads, and what is wrong with them."""

    # the tensors, by the ends of their names, as they may be; the first is the codes'
    types: ClassVar[dict[str, Types]]
    scale_name: ClassVar[str]
    named_by: ClassVar[str] = ""  # the tensor that only such a layer has, if not that of the codes
    zero_code: ClassVar[int] = 0  # the code of zero, where all groups have the same

    @classmethod
    @abstractmethod
    def of(cls, settings: GroupSettings, found: dict[str, Tensor], module: nn.Linear) -> StoredLayout:
        """Return the layout of a layer from its tensors; DataError unless their shapes belong
        together."""

    @classmethod
    def check_present(cls, found: dict[str, Tensor], needed: Collection[str]) -> None:
        """Reject a layer that lacks one of these tensors."""
        if lacking := [name for name in cls.types if name in needed and name not in found]:
            raise wrong(
                next(iter(found.values())), f"the checkpoint lacks its {' and '.join(lacking)}", "damaged"
            )

    def checked(self, found: dict[str, Tensor], fitting: Mapping[str, Shapes]) -> Self:
        """Return itself if each tensor has one of the shapes that fit; those that are not listed
        have one number."""
        for name, one in found.items():
            self.check_shape(one, fitting.get(name, ONE_NUMBER))
        return self

    def check_shape(self, tensor: Tensor, fitting: Shapes) -> None:
        """Reject a tensor that has none of the shapes that fit its layer."""
        if tensor.shape not in fitting or self.inputs >= MAX_INPUTS:
            expected = " or ".join(str(list(shape)) for shape in fitting)
            layer = f"a layer of {self.inputs} inputs, {self.outputs} outputs"
            raise wrong(tensor, f"{list(tensor.shape)}, and {layer} has {expected}")

    @classmethod
    def is_needed(cls, tensor: Tensor) -> bool:
        """Whether a tensor must belong to such a layer, because nothing else can be made of it."""
        if ".experts." in tensor.name and tensor.dtype in CODES:  # fused in a way that is not read
            return True
        # codes without their scales would be loaded as if they were weights
        end = tensor.name.rpartition(".")[2]
        return end in cls.types and (end != "weight" or tensor.dtype in cls.types[end])

    def codes(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """One output after another."""
        return unpack_stream(stored[next(iter(self.types))][first:last], self.bits, self.inputs)

    def scales(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """One output after another."""
        return stored[self.scale_name][first:last]

    def zeros(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """All are the same."""
        return torch.full((1, 1), self.zero_code, dtype=torch.uint8, device=stored[self.scale_name].device)

    def problem(self, stored: Tensors, name: str, tensor: torch.Tensor) -> Note | None:
        """Return what is wrong with the numbers of a tensor; None if nothing is."""
        if name in (self.scale_name, "input_scale") and not tensor.isfinite().all():
            return note("scale_not_finite")
        if name == "input_scale" and not (tensor > 0).all():
            return note("scale_not_positive")
        return None


def unpack_stream(words: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """Return `count` numbers of so many bits, uint8 [..., count], of a dense stream, lowest bits
    first [..., words]."""
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


def wrong(tensor: Tensor, what: str, code: Code = "mismatch") -> DataError:
    return DataError(f"tensor {tensor.name}: {what}", key=tensor.file, code=code)
