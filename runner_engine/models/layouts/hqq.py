"""Layout of HQQ tensors: groups of neighbouring inputs with fractional zero points.

A tensor row of W_q is a group. Distant rows share bytes or words, so that their bits fill these:
with 4 bits the first half of all rows has the upper bits, and the second half the lower bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from runner_base.notes import Note, note
from runner_engine.checkpoints.weight_files import TensorLocation
from runner_engine.models.layouts.base import (
    MAX_INPUTS,
    ORDERS,
    SCALES,
    DtypesByName,
    StoredLayout,
    Tensors,
    build_tensor_error,
)
from runner_engine.quantization.grouped import GroupSettings

# rows that share bytes, or words of 32 bits, by the bits of a code
ROWS_IN_ONE = {8: 1, 4: 2, 3: 10, 2: 4}
CODES: DtypesByName = {"U8": torch.uint8, "I32": torch.int32}
NUMBERS = ("scale", "zero")
NOTES = (  # what each layer says about itself, besides its numbers
    "shape",
    "nbits",
    "group_size",
    "axis",
    "view_as_float",
    "packing",
    "unpack_view_dtype",
    "quant_scale",
    "quant_zero",
    "compute_dtype",
    "offload_meta",
    "encoded_state_dict",
    "stores_quant_config",
    "channel_wise",
    "optimize",
    "round_zero",
)


@dataclass(frozen=True)
class HqqLayout(StoredLayout):
    """HQQ tensors with groups along the inputs (axis=1). The tensor shapes determine bits and group size."""

    types: ClassVar[dict[str, DtypesByName]] = {
        "W_q": CODES,
        **dict.fromkeys(NUMBERS, SCALES),
        **dict.fromkeys(NOTES, CODES | ORDERS),
    }
    scale_name: ClassVar[str] = "scale"

    @property
    def total_groups(self) -> int:
        """Number of groups of all outputs together."""
        return self.outputs * self.groups

    @classmethod
    def from_tensors(
        cls,
        group_settings: GroupSettings,  # noqa: ARG003
        tensors: dict[str, TensorLocation],
        module: nn.Linear,
    ) -> HqqLayout:
        """Create the layout of a layer. The tensor shapes determine the bit width."""
        cls.check_required_tensors(tensors, ["W_q", *NUMBERS])
        codes, inputs, outputs = tensors["W_q"], module.in_features, module.out_features
        group = codes.shape[1] if len(codes.shape) == 2 else 0
        if group < 1 or inputs % group or inputs >= MAX_INPUTS:
            raise build_tensor_error(
                codes,
                f"the second dimension of the shape {list(codes.shape)} must divide the {inputs} inputs",
            )
        some = (3,) if codes.dtype == "I32" else (8, 4, 2)
        layouts = [cls(bits, group, inputs, outputs) for bits in some]
        fitting = [
            layout
            for layout in layouts
            if layout.compute_expected_shapes()["W_q"] == codes.shape and not layout._has_partly_used_bytes()
        ]
        if not fitting:
            layouts[0].check_shape(codes, [layout.compute_expected_shapes()["W_q"] for layout in layouts])
            raise build_tensor_error(
                codes, f"the codes of {layouts[0].total_groups} groups do not fill whole bytes"
            )
        for name in NUMBERS:
            fitting[0].check_shape(tensors[name], [fitting[0].compute_expected_shapes()[name]])
        if tensors["scale"].dtype != tensors["zero"].dtype:
            raise build_tensor_error(
                tensors["zero"],
                f"zero points are {tensors['zero'].dtype}, but scales are {tensors['scale'].dtype}",
            )
        for name in NOTES:
            if name in tensors and len(tensors[name].shape) > 1:
                raise build_tensor_error(
                    tensors[name],
                    f"the tensor must be a scalar or a vector, but has the shape {list(tensors[name].shape)}",
                    "damaged",
                )
        return fitting[0]

    def compute_expected_shapes(self) -> dict[str, tuple[int, ...]]:
        each = (self.total_groups, 1)
        return {
            "W_q": (-(-self.total_groups // ROWS_IN_ONE[self.bits]), self.group),
            "scale": each,
            "zero": each,
        }

    def _has_partly_used_bytes(self) -> bool:
        """Whether the packed bytes contain unused bits. Always False for 3-bit codes, which are
        packed in 32-bit words.
        """
        return self.bits != 3 and self.total_groups % ROWS_IN_ONE[self.bits] > 0

    def codes(self, tensors: Tensors, first_output: int, last_output: int) -> torch.Tensor:
        packed, in_one = tensors["W_q"], ROWS_IN_ONE[self.bits]
        row = torch.arange(first_output * self.groups, last_output * self.groups, device=packed.device)
        shift = (in_one - 1 - row // len(packed)) * self.bits
        codes: torch.Tensor = (
            packed[row % len(packed)] >> shift.to(packed.dtype).unsqueeze(1) & 2**self.bits - 1
        )
        return codes.to(torch.uint8).reshape(last_output - first_output, self.inputs)

    def scales(self, tensors: Tensors, first_output: int, last_output: int) -> torch.Tensor:
        return tensors["scale"].reshape(self.outputs, self.groups)[first_output:last_output]

    def zeros(self, tensors: Tensors, first_output: int, last_output: int) -> torch.Tensor:
        zeros = tensors["zero"].reshape(self.outputs, self.groups)[first_output:last_output]
        return zeros.to(tensors["scale"].dtype)

    def find_invalid_numbers(self, tensors: Tensors, tensor_name: str, tensor: torch.Tensor) -> Note | None:
        if tensor_name == "zero" and not tensor.isfinite().all():
            return note("zero_point_not_finite")
        expected: dict[str, list[object]] = {
            "shape": [[self.outputs, self.inputs]],
            "nbits": [5, 6, 8] if self.bits == 8 else [self.bits],
            "group_size": [self.group],
            "axis": [1],
            "view_as_float": [0],
        }
        if tensor_name in expected and (says := tensor.tolist()) not in expected[tensor_name]:
            return note("other_value", stored=says, expected=" or ".join(map(str, expected[tensor_name])))
        return super().find_invalid_numbers(tensors, tensor_name, tensor)
