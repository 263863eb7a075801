"""Base classes of tensor layouts, which decode the stored tensors of group-quantized weights.

A weight is (code - zero point) * scale of its group, or the value that its code stands for,
times the scale. Tensors stay as in the checkpoint, in its memory-mapped file. A layout finds
codes, scales and zero points in them. Headers are checked before anything is read, and values
after the load.
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
from runner_engine.checkpoints.weight_files import TensorLocation
from runner_engine.quantization.grouped import GroupSettings

Tensors = Mapping[str, torch.Tensor]
DtypesByName = dict[str, torch.dtype]  # number formats by their names in files
Shapes = list[tuple[int, ...]]

SCALES: DtypesByName = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
WORDS: DtypesByName = {"I32": torch.int32}
ORDERS: DtypesByName = {"I32": torch.int32, "I64": torch.int64}
CODES = ("I8", "U8", "I32", "F8_E4M3", "F8_E5M2")  # formats that no plain weight has
ONE_NUMBER: Shapes = [(), (1,), (1, 1)]
MAX_INPUTS = 2**24  # a layer's inputs and groups are counted in numbers that C can hold


@dataclass(frozen=True)
class Layout(ABC):
    """Decodes the codes, scales and zero points of one layer from its stored tensors."""

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
        """Number of groups per output. The last group may have fewer inputs than the others."""
        return -(-self.inputs // self.group)

    @property
    def values(self) -> torch.Tensor | None:
        """The float32 value of each code. None for integer codes with a zero point."""
        return None

    @abstractmethod
    def codes(self, tensors: Tensors, first_output: int, last_output: int) -> torch.Tensor:
        """Return the quantized codes of a range of outputs, uint8 [outputs, inputs]."""

    @abstractmethod
    def scales(self, tensors: Tensors, first_output: int, last_output: int) -> torch.Tensor:
        """Return the scales of a range of outputs, [outputs, groups], in float32 or a 16-bit dtype."""

    def get_packed_scales(self, tensors: Tensors, first_output: int, last_output: int) -> torch.Tensor:
        """Return the scales of a range of outputs in a dtype that the C kernels support
        (SCALE_TYPES in groups.py).
        """
        return self.scales(tensors, first_output, last_output)

    def scale_divisor(self, tensors: Tensors) -> float:
        """Return the divisor that converts the stored float8 scales to the actual scales."""
        return 1.0

    @abstractmethod
    def zeros(self, tensors: Tensors, first_output: int, last_output: int) -> torch.Tensor:
        """Return the zero points of a range of outputs, [outputs, groups], or [1, 1] if all are equal.

        The dtype is uint8 or the dtype of the scales.
        """

    def round_activations(self, tensors: Tensors, activations: torch.Tensor) -> torch.Tensor:
        """Round activations to values that the format can represent, without changing their dtype."""
        return activations


@dataclass(frozen=True)
class StoredLayout(Layout):
    """Base class of layouts that checkpoints use. Validates the shapes and values of the stored tensors."""

    # the tensors, by the ends of their names, as they may be; the first is the codes'
    types: ClassVar[dict[str, DtypesByName]]
    scale_name: ClassVar[str]
    named_by: ClassVar[str] = ""  # the tensor that only such a layer has, if not that of the codes
    zero_code: ClassVar[int] = 0  # the code of zero, where all groups have the same

    @classmethod
    @abstractmethod
    def from_tensors(
        cls, group_settings: GroupSettings, tensors: dict[str, TensorLocation], module: nn.Linear
    ) -> StoredLayout:
        """Create the layout of a layer from the headers of its tensors. Raises DataError if a shape
        does not match.
        """

    @classmethod
    def check_required_tensors(cls, tensors: dict[str, TensorLocation], required: Collection[str]) -> None:
        """Raise DataError if one of the required tensors of a layer is missing."""
        if lacking := [name for name in cls.types if name in required and name not in tensors]:
            raise build_tensor_error(
                next(iter(tensors.values())),
                f"the checkpoint lacks {' and '.join(lacking)} of this layer",
                "damaged",
            )

    def validate_shapes(
        self, tensors: dict[str, TensorLocation], allowed_shapes: Mapping[str, Shapes]
    ) -> Self:
        """Raise DataError if a tensor has no allowed shape; tensors without listed shapes must be
        scalars. Returns self.
        """
        for name, one in tensors.items():
            self.check_shape(one, allowed_shapes.get(name, ONE_NUMBER))
        return self

    def check_shape(self, tensor: TensorLocation, allowed_shapes: Shapes) -> None:
        if tensor.shape not in allowed_shapes or self.inputs >= MAX_INPUTS:
            expected = " or ".join(str(list(shape)) for shape in allowed_shapes)
            layer = f"a layer with {self.inputs} inputs and {self.outputs} outputs"
            raise build_tensor_error(tensor, f"shape {list(tensor.shape)}, but {layer} needs {expected}")

    @classmethod
    def requires_layout(cls, tensor: TensorLocation) -> bool:
        """Whether a tensor holds quantized codes or scales, which must not be loaded as plain weights."""
        if ".experts." in tensor.name and tensor.dtype in CODES:  # fused in a way that is not read
            return True
        # codes without their scales would be loaded as if they were weights
        end = tensor.name.rpartition(".")[2]
        return end in cls.types and (end != "weight" or tensor.dtype in cls.types[end])

    def codes(self, tensors: Tensors, first_output: int, last_output: int) -> torch.Tensor:
        return unpack_bits(tensors[next(iter(self.types))][first_output:last_output], self.bits, self.inputs)

    def scales(self, tensors: Tensors, first_output: int, last_output: int) -> torch.Tensor:
        return tensors[self.scale_name][first_output:last_output]

    def zeros(self, tensors: Tensors, first_output: int, last_output: int) -> torch.Tensor:
        """Return the zero point that all groups share, as a [1, 1] tensor."""
        return torch.full((1, 1), self.zero_code, dtype=torch.uint8, device=tensors[self.scale_name].device)

    def find_invalid_numbers(self, tensors: Tensors, tensor_name: str, tensor: torch.Tensor) -> Note | None:
        if tensor_name in (self.scale_name, "input_scale") and not tensor.isfinite().all():
            return note("scale_not_finite")
        if tensor_name == "input_scale" and not (tensor > 0).all():
            return note("scale_not_positive")
        return None


def unpack_bits(packed: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """Unpack `count` integers of `bits` bits each from a dense little-endian bit stream. Returns
    uint8 [..., count].
    """
    stream = packed.contiguous().view(torch.uint8)
    if bits == 8:
        return stream[..., :count]
    if bits == 4:
        return torch.stack((stream & 15, stream >> 4), dim=-1).flatten(-2)[..., :count]
    # eight numbers are in `bits` bytes
    stream = torch.nn.functional.pad(stream, (0, -stream.shape[-1] % bits))
    stream = stream.reshape(*stream.shape[:-1], -1, bits)
    numbers = torch.empty(*stream.shape[:-1], 8, dtype=torch.uint8, device=packed.device)
    for place in range(8):
        byte, shift = divmod(place * bits, 8)
        number = stream[..., byte] >> shift
        if shift + bits > 8:
            number |= stream[..., byte + 1] << 8 - shift
        numbers[..., place] = number & 2**bits - 1
    return numbers.flatten(-2)[..., :count]


def build_tensor_error(tensor: TensorLocation, problem: str, code: Code = "mismatch") -> DataError:
    return DataError(f"tensor {tensor.name}: {problem}", key=tensor.file, code=code)
