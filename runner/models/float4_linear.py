"""Linear layers of four-bit floats (e2m1) with a scale for each group of inputs: NVFP4 and MXFP4."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from runner.checkpoints.weight_files import Tensor
from runner.models.float8_linear import EXPONENTS, LARGEST, as_numbers
from runner.models.group_layouts import Layout, Tensors
from runner.models.grouped import GroupedLinear
from runner.models.layout_reader import SCALES, LayoutReader, check_present, check_shape, wrong
from runner.quantization.grouped import GroupSettings

SIZES = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
E2M1 = torch.cat((SIZES, -SIZES))
MIDDLES = (SIZES[1:] + SIZES[:-1]) / 2
UP_TO_EVEN = torch.tensor([False, True] * 3 + [False])  # which neighbour a number in the middle becomes
SMALLEST_SCALE = 0.125  # of a group of zeros


@dataclass(frozen=True)
class Mxfp4Layout(Layout):
    """Two codes in a byte, the first in its lower bits; scales are exponents."""

    rows: str = ""  # local: rows are rounded to NVFP4, too
    names: ClassVar[tuple[str, ...]] = ("weight_packed", "weight_scale")
    scale_name: ClassVar[str] = "weight_scale"
    order_name: ClassVar[str] = ""

    @property
    def values(self) -> torch.Tensor:
        """What each code stands for."""
        return E2M1

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Inputs are whole groups."""
        return {"weight_packed": (self.outputs, self.inputs // 2), "weight_scale": (self.outputs, self.groups)}

    def codes(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """One output after another."""
        pairs = stored["weight_packed"][first:last]
        return torch.stack((pairs & 15, pairs >> 4), dim=-1).flatten(-2)

    def scales(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """One output after another."""
        return as_numbers(stored["weight_scale"][first:last])

    def zeros(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """There are none."""
        return torch.zeros(1, 1, dtype=torch.uint8, device=stored["weight_packed"].device)


@dataclass(frozen=True)
class Nvfp4Layout(Mxfp4Layout):
    """Scales are float8, and divided by one number of the whole layer."""

    names: ClassVar[tuple[str, ...]] = ("weight_packed", "weight_scale", "weight_global_scale", "input_global_scale")

    def scales(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """One output after another."""
        return stored["weight_scale"][first:last].float() / stored["weight_global_scale"].float()


class Nvfp4Linear(GroupedLinear):
    """A layer whose rows are rounded to NVFP4 before they are multiplied."""

    def prepared(self, rows: torch.Tensor) -> torch.Tensor:
        """Return rows as the numbers that their codes stand for, in their own number format, as the library does."""
        group, whole = self.layout.group, self.stored["input_global_scale"].float()
        groups = rows.reshape(*rows.shape[:-1], -1, group)
        scale = whole * (groups.abs().amax(-1, keepdim=True) / E2M1.max())
        scale = scale.clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn).float()
        scale = torch.where(scale == 0, SMALLEST_SCALE, scale) / whole
        return (nearest(groups / scale) * scale).flatten(-2).to(rows.dtype)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Round the rows, and multiply them by weights that are unpacked some outputs at a time."""
        return super().forward(self.prepared(input))


def nearest(numbers: torch.Tensor) -> torch.Tensor:
    """Return the nearest value of e2m1 to each number; of two, the one with the even code."""
    sizes, middles, ups = numbers.abs(), MIDDLES.to(numbers.device), UP_TO_EVEN.to(numbers.device)
    found = sum(
        ((sizes >= middle) if up else (sizes > middle)).to(numbers.dtype) * step
        for middle, up, step in zip(middles, ups, SIZES.diff(), strict=True)
    )
    return torch.copysign(torch.as_tensor(found), numbers)


class Mxfp4Reader(LayoutReader):
    """Reads MXFP4."""

    kind = Mxfp4Layout
    types_of_scales: ClassVar[dict[str, torch.dtype]] = EXPONENTS
    last_scale: ClassVar[str] = "weight_scale"

    def layout_of(self, settings: GroupSettings, found: dict[str, Tensor], module: nn.Linear) -> Layout:
        """Inputs are whole groups."""
        check_present(found, [*Mxfp4Layout.names, *self.needed(settings)])
        inputs = module.in_features
        if inputs % settings.group:
            raise wrong(found["weight_packed"], f"{inputs} inputs are not whole groups of {settings.group}")
        layout = self.kind(4, settings.group, inputs, module.out_features, rows=settings.rows)
        shapes = layout.shapes()
        for name, one in found.items():
            check_shape(one, [shapes[name]] if name in shapes else [(), (1,), (1, 1)], module)
        return layout

    def needed(self, settings: GroupSettings) -> list[str]:
        """Return the tensors that a layer needs besides."""
        return []

    def types(self, name: str) -> dict[str, torch.dtype]:
        """Codes are bytes."""
        own = {"weight_packed": {"U8": torch.uint8}, "weight_scale": self.types_of_scales}
        return own.get(name, SCALES)

    def problem(self, layer: GroupedLinear, name: str, tensor: torch.Tensor) -> str:
        """Scales are numbers, also together, and those of whole layers above 0."""
        if name == "weight_scale" and not as_numbers(tensor).float().isfinite().all():
            return "a scale is not a finite number"
        if name.endswith("global_scale") and not (tensor.isfinite().all() and (tensor > 0).all()):
            return "the scale of the layer is not a finite number above 0"
        if name == self.last_scale:
            largest = layer.layout.scales(layer.stored, 0, layer.out_features).abs().max() * E2M1.max()
            if not largest.isfinite():
                return "a weight would not be a finite number"
        return ""


class Nvfp4Reader(Mxfp4Reader):
    """Reads NVFP4."""

    kind = Nvfp4Layout
    types_of_scales: ClassVar[dict[str, torch.dtype]] = {"F8_E4M3": torch.float8_e4m3fn}
    last_scale: ClassVar[str] = "weight_global_scale"

    def needed(self, settings: GroupSettings) -> list[str]:
        """Rows that are rounded have a scale for all, too."""
        return ["weight_global_scale", *["input_global_scale"] * bool(settings.rows)]

    def layer(self, like: nn.Linear, layout: Layout, stored: dict[str, torch.Tensor]) -> GroupedLinear:
        """Rows may be rounded, too."""
        has_rows = isinstance(layout, Nvfp4Layout) and layout.rows
        return Nvfp4Linear(like, layout, stored) if has_rows else super().layer(like, layout, stored)
