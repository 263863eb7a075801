"""Linear layers of float8 weights (e4m3) with scales for outputs, blocks or groups; rows may be rounded, too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from runner.checkpoints.weight_files import Tensor
from runner.models.group_layouts import Layout, Tensors
from runner.models.grouped import GroupedLinear
from runner.models.layout_reader import SCALES, LayoutReader, check_present, check_shape, wrong
from runner.quantization.grouped import GroupSettings

LARGEST = 448  # of e4m3
E4M3 = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
EXPONENTS = {"F8_E8M0": torch.float8_e8m0fnu, "U8": torch.uint8}  # powers of two; both are the same bytes


@dataclass(frozen=True)
class Float8Layout(Layout):
    """Bytes of e4m3, with the scales of compressed-tensors and FBGEMM."""

    of_outputs: int  # that share a scale
    rows: str = ""  # how rows are quantized: by the largest number of each (dynamic), by the checkpoint (static)
    row_group: int = -1  # numbers of a row that share a scale; -1: all
    names: ClassVar[tuple[str, ...]] = ("weight", "weight_scale", "input_scale", "input_scale_ub")
    named_by: ClassVar[str] = "weight_scale"
    scale_name: ClassVar[str] = "weight_scale"
    order_name: ClassVar[str] = ""

    @property
    def values(self) -> torch.Tensor:
        """What each byte stands for."""
        return E4M3

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Scales that are one for all may have several shapes."""
        return {
            "weight": (self.outputs, self.inputs),
            self.scale_name: (-(-self.outputs // self.of_outputs), self.groups),
        }

    def codes(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """One output after another."""
        return stored["weight"][first:last].view(torch.uint8)

    def scales(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """Outputs of a block have the same scales."""
        scales = as_numbers(stored[self.scale_name]).reshape(-1, self.groups)
        return scales[torch.arange(first, last, device=scales.device) // self.of_outputs]

    def zeros(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """There are none."""
        return torch.zeros(1, 1, dtype=torch.uint8, device=stored["weight"].device)


@dataclass(frozen=True)
class BlockFloat8Layout(Float8Layout):
    """The same, as transformers' method fp8 names the tensors."""

    names: ClassVar[tuple[str, ...]] = ("weight", "weight_scale_inv", "activation_scale")
    named_by: ClassVar[str] = "weight_scale_inv"
    scale_name: ClassVar[str] = "weight_scale_inv"


def as_numbers(scales: torch.Tensor) -> torch.Tensor:
    """Return scales that may be exponents as numbers; an exponent of 255 is none."""
    if scales.dtype is torch.uint8:
        scales = scales.view(torch.float8_e8m0fnu)
    return scales.float() if scales.dtype is torch.float8_e8m0fnu else scales


class Float8Linear(GroupedLinear):
    """A layer whose rows are rounded to float8 before they are multiplied."""

    layout: Float8Layout

    def prepared(self, rows: torch.Tensor) -> torch.Tensor:
        """Return rows as the numbers that their float8 stand for, in their own number format, as the library does."""
        if self.layout.rows == "static":
            return _rounded(rows, self.stored["input_scale"].to(rows.dtype))
        inputs = rows.shape[-1]
        groups = rows.reshape(*rows.shape[:-1], -1, inputs if self.layout.row_group == -1 else self.layout.row_group)
        scale = groups.abs().amax(-1, keepdim=True) / LARGEST
        return _rounded(groups, torch.where(scale == 0, torch.finfo(rows.dtype).eps, scale)).flatten(-2)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Round the rows, and multiply them by weights that are unpacked some outputs at a time."""
        return super().forward(self.prepared(input))


def _rounded(rows: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (rows / scale).clamp_(-LARGEST, LARGEST).to(torch.float8_e4m3fn).to(rows.dtype).mul_(scale)


class Float8Reader(LayoutReader):
    """Reads float8 weights."""

    kind = Float8Layout

    def layout_of(self, settings: GroupSettings, found: dict[str, Tensor], module: nn.Linear) -> Layout:
        """A scale for all may be a number, a list or a matrix; any other shape follows from the blocks."""
        scale_name, inputs, outputs = self.kind.scale_name, module.in_features, module.out_features
        check_present(found, ["weight", scale_name] + ["input_scale"] * (settings.rows == "static"))
        if settings.row_group != -1 and inputs % settings.row_group:
            raise wrong(found["weight"], f"{inputs} inputs are not whole groups of {settings.row_group}")
        ones: list[tuple[int, ...]] = [(), (1,), (1, 1)]
        is_one = settings.group == -1 and found[scale_name].shape in ones
        extra: dict[str, Any] = {"rows": settings.rows, "row_group": settings.row_group}
        group = inputs if settings.group == -1 else min(settings.group, inputs)
        layout = self.kind(
            8, group, inputs, outputs, outputs if is_one or settings.outputs == -1 else settings.outputs, **extra
        )
        shapes = layout.shapes()
        by_output: list[tuple[int, ...]] = [(outputs,)] * (settings.outputs == 1 and settings.group == -1)
        for name, one in found.items():
            of_scale = ones if is_one or settings.outputs == -1 else [shapes[scale_name], *by_output]
            check_shape(
                one, [shapes["weight"]] if name == "weight" else of_scale if name == scale_name else ones, module
            )
        return layout

    def types(self, name: str) -> dict[str, torch.dtype]:
        """Weights are bytes of e4m3."""
        if name == "weight":
            return {"F8_E4M3": torch.float8_e4m3fn}
        return SCALES | EXPONENTS if name == self.kind.scale_name else SCALES

    def is_needed(self, tensor: Tensor) -> bool:
        """Float8 without a scale would be loaded as if they were weights."""
        is_weight = tensor.name.endswith(".weight") and tensor.dtype.startswith("F8")
        return is_weight or tensor.name.endswith(f".{self.kind.scale_name}")

    def layer(self, like: nn.Linear, layout: Layout, stored: dict[str, torch.Tensor]) -> GroupedLinear:
        """Rows may be rounded, too."""
        has_rows = isinstance(layout, Float8Layout) and layout.rows
        return Float8Linear(like, layout, stored) if has_rows else super().layer(like, layout, stored)

    def problem(self, layer: GroupedLinear, name: str, tensor: torch.Tensor) -> str:
        """A byte may be no number."""
        if name == "weight" and ((tensor.view(torch.uint8) & 127) == 127).any():
            return "a weight is not a number (NaN)"
        return super().problem(layer, name, as_numbers(tensor) if name == self.kind.scale_name else tensor)


class BlockFloat8Reader(Float8Reader):
    """Reads transformers' method fp8."""

    kind = BlockFloat8Layout
