"""Four-bit floats (e2m1) with a scale for each group of inputs: NVFP4 and MXFP4 of
compressed-tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import nn

from runner_base.notes import Note, note
from runner_engine.checkpoints.weight_files import Tensor
from runner_engine.models.layouts.base import SCALES, StoredLayout, Tensors, Types, wrong
from runner_engine.models.layouts.float8 import EXPONENTS, FLOAT8, LARGEST, as_numbers
from runner_engine.quantization.grouped import GroupSettings

SIZES = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
E2M1 = torch.cat((SIZES, -SIZES))
MIDDLES = (SIZES[1:] + SIZES[:-1]) / 2
# which neighbour a number in the middle becomes
UP_TO_EVEN = torch.tensor([False, True] * 3 + [False])
SMALLEST_SCALE = 0.125  # of a group of zeros
BYTES: Types = {"U8": torch.uint8}


@dataclass(frozen=True)
class Mxfp4Layout(StoredLayout):
    """Two codes in a byte, the first in its lower bits; scales are exponents."""

    types: ClassVar[dict[str, Types]] = {"weight_packed": BYTES, "weight_scale": EXPONENTS}
    scale_name: ClassVar[str] = "weight_scale"

    @property
    def values(self) -> torch.Tensor:
        """What each code stands for."""
        return E2M1

    @classmethod
    def of(cls, settings: GroupSettings, found: dict[str, Tensor], module: nn.Linear) -> Self:
        """Inputs are whole groups; rows that are rounded have a scale for all, too."""
        cls.check_present(
            found, [name for name in cls.types if name != "input_global_scale" or settings.rows]
        )
        inputs = module.in_features
        if inputs % settings.group:
            raise wrong(found["weight_packed"], f"{inputs} inputs are not whole groups of {settings.group}")
        layout = cls(4, settings.group, inputs, module.out_features, rows=settings.rows)
        codes, scales = (layout.outputs, inputs // 2), (layout.outputs, layout.groups)
        return layout.checked(found, {"weight_packed": [codes], "weight_scale": [scales]})

    def scales(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """One output after another."""
        return as_numbers(stored["weight_scale"][first:last])

    def panel_scales(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """Exponents in a byte."""
        return stored["weight_scale"][first:last].view(torch.float8_e8m0fnu)

    def problem(self, stored: Tensors, name: str, tensor: torch.Tensor) -> Note | None:
        """Scales are numbers, also together, and those of whole layers above 0."""
        if name == "weight_scale" and not as_numbers(tensor).float().isfinite().all():
            return note("scale_not_finite")
        if name.endswith("global_scale") and not (tensor.isfinite().all() and (tensor > 0).all()):
            return note("layer_scale_not_positive")
        if name == ("weight_global_scale" if "weight_global_scale" in stored else "weight_scale"):
            largest = self.scales(stored, 0, self.outputs).abs().max() * E2M1.max()
            if not largest.isfinite():
                return note("weight_not_finite")
        return None


@dataclass(frozen=True)
class Nvfp4Layout(Mxfp4Layout):
    """Scales are float8, and divided by one number of the whole layer; rows: local, which are
    rounded to NVFP4."""

    types: ClassVar[dict[str, Types]] = {
        "weight_packed": BYTES,
        "weight_scale": FLOAT8,
        "weight_global_scale": SCALES,
        "input_global_scale": SCALES,
    }
    rounding_layers: ClassVar[str] = "Nvfp4Linear"

    def scales(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """One output after another."""
        return stored["weight_scale"][first:last].float() / stored["weight_global_scale"].float()

    def panel_scales(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        return stored["weight_scale"][first:last]

    def scale_divisor(self, stored: Tensors) -> float:
        """The number of the whole layer."""
        return float(stored["weight_global_scale"].detach())

    def prepared(self, stored: Tensors, rows: torch.Tensor) -> torch.Tensor:
        """Return rows as the numbers that their codes stand for, as the library does."""
        whole = stored["input_global_scale"].float()
        groups = rows.reshape(*rows.shape[:-1], -1, self.group)
        scale = whole * (groups.abs().amax(-1, keepdim=True) / E2M1.max())
        scale = scale.clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn).float()
        scale = torch.where(scale == 0, SMALLEST_SCALE, scale) / whole
        return (nearest(groups / scale) * scale).flatten(-2).to(rows.dtype)


def nearest(numbers: torch.Tensor) -> torch.Tensor:
    """Return the nearest value of e2m1 to each number; of two, the one with the even code."""
    sizes, middles, ups = numbers.abs(), MIDDLES.to(numbers.device), UP_TO_EVEN.to(numbers.device)
    found = sum(
        ((sizes >= middle) if up else (sizes > middle)).to(numbers.dtype) * step
        for middle, up, step in zip(middles, ups, SIZES.diff(), strict=True)
    )
    return torch.copysign(torch.as_tensor(found), numbers)
