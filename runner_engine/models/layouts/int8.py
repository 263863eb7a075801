"""int8 weights with one scale for each output, whose rows may be rounded to int8, too.

compressed-tensors stores them in its format int-quantized (W8A8, W8A16). Rows get the scale of each
as it comes, or one that the checkpoint holds for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from runner_base.notes import Note, note
from runner_engine.checkpoints.weight_files import Tensor
from runner_engine.models.layouts.base import ONE_NUMBER, SCALES, Shapes, StoredLayout, Tensors, Types
from runner_engine.quantization.grouped import GroupSettings

LARGEST = 127.5  # a row's scale is its largest number, divided by this: half of the range of a byte
BYTES: Types = {"I8": torch.int8}


@dataclass(frozen=True)
class Int8Layout(StoredLayout):
    """Signed bytes, with one scale for each output or for all of them; rows: dynamic, or static in
    the checkpoint."""

    types: ClassVar[dict[str, Types]] = {
        "weight": BYTES,
        "weight_scale": SCALES,
        "weight_zero_point": BYTES,
        "input_scale": SCALES,
        "input_zero_point": BYTES,
    }
    named_by: ClassVar[str] = "weight_scale"
    scale_name: ClassVar[str] = "weight_scale"
    rounding_layers: ClassVar[str] = "Int8Linear"
    zero_code: ClassVar[int] = 128  # half the range

    @classmethod
    def of(cls, settings: GroupSettings, found: dict[str, Tensor], module: nn.Linear) -> Int8Layout:
        """Scales have one number, or one for each output."""
        cls.check_present(found, ["weight", "weight_scale"] + ["input_scale"] * (settings.rows == "static"))
        layout = cls(8, module.in_features, module.in_features, module.out_features, rows=settings.rows)
        of_outputs: Shapes = [(layout.outputs,), (layout.outputs, 1), *ONE_NUMBER]
        weights: Shapes = [(layout.outputs, layout.inputs)]
        return layout.checked(
            found, {"weight": weights, "weight_scale": of_outputs, "weight_zero_point": of_outputs}
        )

    def codes(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """A signed byte, counted from -128."""
        return stored["weight"][first:last].view(torch.uint8) ^ 128

    def scales(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """One output after another."""
        return stored["weight_scale"].reshape(-1, 1).expand(self.outputs, 1)[first:last]

    def row_scale(self, stored: Tensors) -> float:
        """Return the scale of all rows, 0 where each has its own."""
        return float(stored["input_scale"].detach()) if self.rows == "static" else 0.0

    def row_zero_point(self, stored: Tensors) -> int:
        """Return the byte that stands for 0 in all rows."""
        is_given = self.rows == "static" and "input_zero_point" in stored
        return int(stored["input_zero_point"].detach()) if is_given else 0

    def whole_numbers(self, stored: Tensors, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the int8 of rows, in the rows' number format, and the scale of each, as the
        library computes them."""
        if self.rows == "static":
            scale = stored["input_scale"].to(rows.dtype)
        else:
            scale = torch.maximum(rows.amax(-1, keepdim=True), -rows.amin(-1, keepdim=True)) / LARGEST
            scale = torch.where(scale == 0, torch.finfo(rows.dtype).eps, scale)
        return (rows / scale).add_(self.row_zero_point(stored)).clamp_(-128, 127).round_(), scale

    def prepared(self, stored: Tensors, rows: torch.Tensor) -> torch.Tensor:
        """Return rows as the numbers that their int8 stand for, as the library does."""
        numbers, scale = self.whole_numbers(stored, rows)
        return numbers.sub_(self.row_zero_point(stored)).mul_(scale)

    def problem(self, stored: Tensors, name: str, tensor: torch.Tensor) -> Note | None:
        if name == "weight_zero_point" and tensor.any():
            return note("zero_point_of_symmetric")
        return super().problem(stored, name, tensor)
