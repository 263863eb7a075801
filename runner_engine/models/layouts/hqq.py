"""HQQ's tensors: groups along inputs, with zero points that have fractions.

A row of W_q is a group. So that bits fill bytes or words, rows that lie far apart share them: with
4 bits the first half of all rows has the upper bits, and the second half the lower ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from runner_base.notes import Note, note
from runner_engine.checkpoints.weight_files import Tensor
from runner_engine.models.layouts.base import MAX_INPUTS, ORDERS, SCALES, StoredLayout, Tensors, Types, wrong
from runner_engine.quantization.grouped import GroupSettings

# rows that share bytes, or words of 32 bits, by the bits of a code
ROWS_IN_ONE = {8: 1, 4: 2, 3: 10, 2: 4}
CODES: Types = {"U8": torch.uint8, "I32": torch.int32}
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
    """HQQ's tensors with axis=1; bits and groups follow from their shapes."""

    types: ClassVar[dict[str, Types]] = {
        "W_q": CODES,
        **dict.fromkeys(NUMBERS, SCALES),
        **dict.fromkeys(NOTES, CODES | ORDERS),
    }
    scale_name: ClassVar[str] = "scale"

    @property
    def row_count(self) -> int:
        """The number of groups of all outputs."""
        return self.outputs * self.groups

    @classmethod
    def of(cls, settings: GroupSettings, found: dict[str, Tensor], module: nn.Linear) -> HqqLayout:  # noqa: ARG003
        """Bits are those of the settings that fit."""
        cls.check_present(found, ["W_q", *NUMBERS])
        codes, inputs, outputs = found["W_q"], module.in_features, module.out_features
        group = codes.shape[1] if len(codes.shape) == 2 else 0
        if group < 1 or inputs % group or inputs >= MAX_INPUTS:
            raise wrong(codes, f"{list(codes.shape)}: rows that are groups of {inputs} inputs expected")
        some = (3,) if codes.dtype == "I32" else (8, 4, 2)
        layouts = [cls(bits, group, inputs, outputs) for bits in some]
        fitting = [
            layout for layout in layouts if layout.shapes()["W_q"] == codes.shape and not layout._has_rest()
        ]
        if not fitting:
            layouts[0].check_shape(codes, [layout.shapes()["W_q"] for layout in layouts])
            raise wrong(codes, f"{layouts[0].row_count} groups do not fill whole bytes")
        for name in NUMBERS:
            fitting[0].check_shape(found[name], [fitting[0].shapes()[name]])
        if found["scale"].dtype != found["zero"].dtype:
            raise wrong(found["zero"], f"{found['zero'].dtype}, and the scales are {found['scale'].dtype}")
        for name in NOTES:
            if name in found and len(found[name].shape) > 1:
                raise wrong(found[name], f"{list(found[name].shape)}: a number or a word expected", "damaged")
        return fitting[0]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of these tensors: rows are groups, and some rows of codes are in
        one."""
        each = (self.row_count, 1)
        return {
            "W_q": (-(-self.row_count // ROWS_IN_ONE[self.bits]), self.group),
            "scale": each,
            "zero": each,
        }

    def _has_rest(self) -> bool:
        """Whether bytes are not full; words need not be."""
        return self.bits != 3 and self.row_count % ROWS_IN_ONE[self.bits] > 0

    def codes(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """Rows have the upper bits first."""
        packed, in_one = stored["W_q"], ROWS_IN_ONE[self.bits]
        row = torch.arange(first * self.groups, last * self.groups, device=packed.device)
        shift = (in_one - 1 - row // len(packed)) * self.bits
        codes: torch.Tensor = (
            packed[row % len(packed)] >> shift.to(packed.dtype).unsqueeze(1) & 2**self.bits - 1
        )
        return codes.to(torch.uint8).reshape(last - first, self.inputs)

    def scales(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """One output after another."""
        return stored["scale"].reshape(self.outputs, self.groups)[first:last]

    def zeros(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """One output after another, in the format of the scales."""
        zeros = stored["zero"].reshape(self.outputs, self.groups)[first:last]
        return zeros.to(stored["scale"].dtype)

    def problem(self, stored: Tensors, name: str, tensor: torch.Tensor) -> Note | None:
        """What a layer says about itself must be what its shapes say."""
        if name == "zero" and not tensor.isfinite().all():
            return note("zero_point_not_finite")
        expected: dict[str, list[object]] = {
            "shape": [[self.outputs, self.inputs]],
            "nbits": [5, 6, 8] if self.bits == 8 else [self.bits],
            "group_size": [self.group],
            "axis": [1],
            "view_as_float": [0],
        }
        if name in expected and (says := tensor.tolist()) not in expected[name]:
            return note("other_value", stored=says, expected=" or ".join(map(str, expected[name])))
        return super().problem(stored, name, tensor)
