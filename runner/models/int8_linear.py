"""Linear layers of int8 weights with one scale for each output, whose rows may be quantized to int8, too.

compressed-tensors stores them in its format int-quantized (W8A8, W8A16). Rows get the scale of each as it comes, or one
that the checkpoint holds for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from runner.checkpoints.weight_files import Tensor
from runner.models.group_layouts import Layout, Tensors
from runner.models.grouped import GroupedLinear
from runner.models.layout_reader import SCALES, LayoutReader, check_present, check_shape
from runner.quantization.grouped import GroupSettings

LARGEST = 127.5  # a row's scale is its largest number, divided by this: half of the range of a byte


@dataclass(frozen=True)
class Int8Layout(Layout):
    """compressed-tensors' int-quantized: signed bytes, with one scale for each output or for all of them."""

    rows: str = ""  # how rows are quantized: by the largest number of each (dynamic), by the checkpoint (static)
    names: ClassVar[tuple[str, ...]] = (
        "weight", "weight_scale", "weight_zero_point", "input_scale", "input_zero_point",
    )  # fmt: skip
    named_by: ClassVar[str] = "weight_scale"
    scale_name: ClassVar[str] = "weight_scale"
    order_name: ClassVar[str] = ""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Scales may be of any shape with one number, or one for each output."""
        return {"weight": (self.outputs, self.inputs)}

    def codes(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """A signed byte, counted from -128."""
        return stored["weight"][first:last].view(torch.uint8) ^ 128

    def scales(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """One output after another."""
        return stored["weight_scale"].reshape(-1, 1).expand(self.outputs, 1)[first:last]

    def zeros(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """The code of zero is half the range."""
        return stored["weight"].new_full((1, 1), 128, dtype=torch.uint8)


class Int8Linear(GroupedLinear):
    """A layer whose rows are rounded to int8 before they are multiplied."""

    layout: Int8Layout

    @property
    def row_scale(self) -> float:
        """The scale of all rows, 0 where each has its own."""
        return float(self.stored["input_scale"].detach()) if self.layout.rows == "static" else 0.0

    @property
    def row_zero_point(self) -> int:
        """The byte that stands for 0 in all rows."""
        is_given = self.layout.rows == "static" and "input_zero_point" in self.stored
        return int(self.stored["input_zero_point"].detach()) if is_given else 0

    def whole_numbers(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the int8 of rows, in the rows' number format, and the scale of each, as the library computes them."""
        if self.layout.rows == "static":
            scale = self.stored["input_scale"].to(rows.dtype)
        else:
            scale = torch.maximum(rows.amax(-1, keepdim=True), -rows.amin(-1, keepdim=True)) / LARGEST
            scale = torch.where(scale == 0, torch.finfo(rows.dtype).eps, scale)
        return (rows / scale).add_(self.row_zero_point).clamp_(-128, 127).round_(), scale

    def prepared(self, rows: torch.Tensor) -> torch.Tensor:
        """Return rows as the numbers that their int8 stand for, in their own number format, as the library does."""
        numbers, scale = self.whole_numbers(rows)
        return numbers.sub_(self.row_zero_point).mul_(scale)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Round the rows, and multiply them by weights that are unpacked some outputs at a time."""
        return super().forward(self.prepared(input))


class Int8Reader(LayoutReader):
    """Reads int8 weights, whose scales are one for each output or one for all."""

    kind = Int8Layout

    def layout_of(self, settings: GroupSettings, found: dict[str, Tensor], module: nn.Linear) -> Layout:
        """Scales have one number, or one for each output."""
        check_present(found, ["weight", "weight_scale"] + ["input_scale"] * (settings.rows == "static"))
        inputs, outputs = module.in_features, module.out_features
        ones: list[tuple[int, ...]] = [(), (1,), (1, 1)]
        for name, one in found.items():
            of_outputs: list[tuple[int, ...]] = [(outputs,), (outputs, 1), *ones]
            weights: list[tuple[int, ...]] = [(outputs, inputs)]
            fitting = weights if name == "weight" else ones if name.startswith("input") else of_outputs
            check_shape(one, fitting, module)
        return Int8Layout(8, inputs, inputs, outputs, rows=settings.rows)

    def types(self, name: str) -> dict[str, torch.dtype]:
        """Weights and zero points are bytes."""
        return SCALES if name in ("weight_scale", "input_scale") else {"I8": torch.int8}

    def is_needed(self, tensor: Tensor) -> bool:
        """Bytes without a scale would be loaded as if they were weights."""
        return super().is_needed(tensor) or (tensor.name.endswith(".weight") and tensor.dtype == "I8")

    def layer(self, like: nn.Linear, layout: Layout, stored: dict[str, torch.Tensor]) -> GroupedLinear:
        """Rows may be rounded, too."""
        has_rows = isinstance(layout, Int8Layout) and layout.rows
        return Int8Linear(like, layout, stored) if has_rows else super().layer(like, layout, stored)

    def problem(self, layer: GroupedLinear, name: str, tensor: torch.Tensor) -> str:
        """Weights are symmetric."""
        if name == "weight_zero_point" and tensor.any():
            return "symmetric weights have zero points of 0"
        return super().problem(layer, name, tensor)
