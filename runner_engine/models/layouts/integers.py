"""Layouts of GPTQ, AWQ and pack-quantized weights: integers packed as dense bit streams in
int32.

Bits and group sizes follow from the tensors' shapes.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from torch import nn

from runner_base.notes import Note, note
from runner_engine.checkpoints.weight_files import TensorLocation
from runner_engine.models.layouts.base import (
    MAX_INPUTS,
    ORDERS,
    SCALES,
    WORDS,
    DtypesByName,
    StoredLayout,
    Tensors,
    build_tensor_error,
    unpack_bits,
)
from runner_engine.quantization.grouped import GroupSettings

AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)  # of eight outputs in a word that has 0, 2, 4, 6, 1, 3, 5, 7


@dataclass(frozen=True)
class IntegersLayout(StoredLayout):
    """Base class of the GPTQ, AWQ and pack-quantized layouts."""

    is_minus_one: bool = field(default=False, kw_only=True)  # zero points are stored minus one
    groups_at: ClassVar[int] = 0  # in the shape of the scales
    optional: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_tensors(
        cls, group_settings: GroupSettings, tensors: dict[str, TensorLocation], module: nn.Linear
    ) -> Self:
        """Create the layout of a layer, whose group size may differ from the one in quantization_config."""
        cls.check_required_tensors(tensors, [name for name in cls.types if name not in cls.optional])
        codes, scales, inputs = (tensors[next(iter(cls.types))], tensors[cls.scale_name], module.in_features)
        if len(scales.shape) != 2 or len(codes.shape) != 2 or inputs >= MAX_INPUTS:
            raise build_tensor_error(
                codes, f"{list(codes.shape)} with scales {list(scales.shape)}: both must be matrices"
            )
        groups = scales.shape[cls.groups_at]
        bits = cls.infer_bits(group_settings, codes, inputs)
        group = inputs if group_settings.group == -1 else min(group_settings.group, inputs)
        if groups < 1 or (-(-inputs // group) != groups and inputs % groups):
            raise build_tensor_error(
                scales, f"the shape {list(scales.shape)} does not fit {inputs} inputs in groups of {group}"
            )
        if -(-inputs // group) != groups:
            group = inputs // groups  # the layer has settings of its own
        layout = cls(bits, group, inputs, module.out_features, is_minus_one=group_settings.is_minus_one)
        return layout.validate_shapes(
            tensors, {name: [expected] for name, expected in layout.compute_expected_shapes().items()}
        )

    @abstractmethod
    def compute_expected_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape that each tensor must have."""

    @classmethod
    def infer_bits(cls, group_settings: GroupSettings, codes: TensorLocation, inputs: int) -> int:  # noqa: ARG003
        """Infer the bits per code from the size of the packed tensor."""
        return 4

    def find_invalid_numbers(self, tensors: Tensors, tensor_name: str, tensor: torch.Tensor) -> Note | None:
        """Return a note if a group index is out of range.

        If all indices are -1, inputs are not reordered.
        """
        if tensor_name == self.order_name and not bool((tensor == -1).all()):
            low, high = int(tensor.min()), int(tensor.max())
            if low < 0 or high >= self.groups:
                return note("no_such_group", group=low if low < 0 else high, groups=self.groups)
        return super().find_invalid_numbers(tensors, tensor_name, tensor)


@dataclass(frozen=True)
class GptqLayout(IntegersLayout):
    """GPTQ tensors: codes packed along the inputs, zero points packed along the outputs.

    The first version of the format (gptq) stores zero points minus one.
    """

    types: ClassVar[dict[str, DtypesByName]] = {
        "qweight": WORDS,
        "qzeros": WORDS,
        "scales": SCALES,
        "g_idx": ORDERS,
    }
    scale_name: ClassVar[str] = "scales"
    order_name: ClassVar[str] = "g_idx"
    optional: ClassVar[tuple[str, ...]] = ("g_idx",)

    @classmethod
    def infer_bits(cls, group_settings: GroupSettings, codes: TensorLocation, inputs: int) -> int:  # noqa: ARG003
        """Infer the bits per code from the size of the packed tensor, which has no unused bits."""
        bits, rest = divmod(codes.shape[0] * 32, inputs)
        if rest or bits not in range(2, 9):
            raise build_tensor_error(
                codes, f"the shape {list(codes.shape)} does not fit {inputs} inputs with 2 to 8 bits each"
            )
        return bits

    def compute_expected_shapes(self) -> dict[str, tuple[int, ...]]:
        return {
            "qweight": (self.inputs * self.bits // 32, self.outputs),
            "qzeros": (self.groups, self.outputs * self.bits // 32),
            "scales": (self.groups, self.outputs),
            "g_idx": (self.inputs,),
        }

    def codes(self, tensors: Tensors, first_output: int, last_output: int) -> torch.Tensor:
        """Unpack the codes of a range of outputs. Each 32-bit word packs codes of neighbouring inputs."""
        return unpack_bits(
            tensors["qweight"][:, first_output:last_output].T.contiguous(), self.bits, self.inputs
        )

    def scales(self, tensors: Tensors, first_output: int, last_output: int) -> torch.Tensor:
        return tensors["scales"][:, first_output:last_output].T

    def zeros(self, tensors: Tensors, first_output: int, last_output: int) -> torch.Tensor:
        """Unpack the zero points. Older GPTQ formats store each zero point minus one.

        Adding one wraps within the bit width, like in AutoGPTQ.
        """
        zeros = _unpack_integer_range(tensors["qzeros"], self.bits, first_output, last_output).T
        return zeros + 1 & 2**self.bits - 1 if self.is_minus_one else zeros


@dataclass(frozen=True)
class AwqLayout(IntegersLayout):
    """AWQ tensors in gemm format: a 32-bit word packs eight outputs, the even ones before the odd ones."""

    types: ClassVar[dict[str, DtypesByName]] = {"qweight": WORDS, "qzeros": WORDS, "scales": SCALES}
    scale_name: ClassVar[str] = "scales"

    def compute_expected_shapes(self) -> dict[str, tuple[int, ...]]:
        words = self.outputs // 8
        return {
            "qweight": (self.inputs, words),
            "qzeros": (self.groups, words),
            "scales": (self.groups, self.outputs),
        }

    def codes(self, tensors: Tensors, first_output: int, last_output: int) -> torch.Tensor:
        return _unpack_awq_integers(tensors["qweight"], first_output, last_output)

    def scales(self, tensors: Tensors, first_output: int, last_output: int) -> torch.Tensor:
        return tensors["scales"][:, first_output:last_output].T

    def zeros(self, tensors: Tensors, first_output: int, last_output: int) -> torch.Tensor:
        return _unpack_awq_integers(tensors["qzeros"], first_output, last_output)


@dataclass(frozen=True)
class PackedLayout(IntegersLayout):
    """Tensors of compressed-tensors' pack-quantized format: unsigned codes packed along inputs, zero
    points along outputs.
    """

    types: ClassVar[dict[str, DtypesByName]] = {
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
    def infer_bits(cls, group_settings: GroupSettings, codes: TensorLocation, inputs: int) -> int:
        """Return the configured bit width that matches the shape of the packed codes."""
        fitting = [bits for bits in group_settings.bits if -(-inputs * bits // 32) == codes.shape[1]]
        if not fitting:
            bits = " or ".join(map(str, group_settings.bits))
            raise build_tensor_error(
                codes, f"the shape {list(codes.shape)} does not fit {inputs} inputs with {bits} bits each"
            )
        return fitting[0]

    def compute_expected_shapes(self) -> dict[str, tuple[int, ...]]:
        return {
            "weight_packed": (self.outputs, -(-self.inputs * self.bits // 32)),
            "weight_scale": (self.outputs, self.groups),
            "weight_zero_point": (-(-self.outputs * self.bits // 32), self.groups),
            "weight_g_idx": (self.inputs,),
            "weight_shape": (2,),
        }

    def zeros(self, tensors: Tensors, first_output: int, last_output: int) -> torch.Tensor:
        """Unpack the zero points. Symmetric weights store none; their zero point is the middle of
        the code range.
        """
        if "weight_zero_point" not in tensors:
            return tensors["weight_scale"].new_full((1, 1), 2 ** (self.bits - 1), dtype=torch.uint8)
        return _unpack_integer_range(tensors["weight_zero_point"].T, self.bits, first_output, last_output).T

    def find_invalid_numbers(self, tensors: Tensors, tensor_name: str, tensor: torch.Tensor) -> Note | None:
        """Return a note if the shape stored in the checkpoint differs from the layer's shape. None
        otherwise.
        """
        if tensor_name == "weight_shape" and tensor.tolist() != [self.outputs, self.inputs]:
            return note("other_shape", stored=tensor.tolist(), shape=[self.outputs, self.inputs])
        return super().find_invalid_numbers(tensors, tensor_name, tensor)


def _unpack_integer_range(
    packed: torch.Tensor, bits: int, first_integer: int, last_integer: int
) -> torch.Tensor:
    """Unpack a range of integers from a bit stream, without unpacking all integers before the range."""
    begin = first_integer // 32
    piece = packed[..., begin * bits : -(-last_integer // 32) * bits]
    return unpack_bits(piece, bits, last_integer - begin * 32)[..., first_integer - begin * 32 :]


def _unpack_awq_integers(packed: torch.Tensor, first_output: int, last_output: int) -> torch.Tensor:
    begin = first_output // 8
    some = packed[:, begin : -(-last_output // 8)]
    numbers = (
        unpack_bits(some, 4, some.shape[-1] * 8).reshape(len(packed), -1, 8)[..., AWQ_PLACES].flatten(-2)
    )
    return numbers.T[first_output - begin * 8 : last_output - begin * 8]
