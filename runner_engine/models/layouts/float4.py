"""Layouts of compressed-tensors' NVFP4 and MXFP4: 4-bit floats (e2m1) with one scale per group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import nn

from runner_base.notes import Note, note
from runner_engine.checkpoints.weight_files import TensorLocation
from runner_engine.models.layouts.base import SCALES, DtypesByName, StoredLayout, Tensors, build_tensor_error
from runner_engine.models.layouts.float8 import EXPONENTS, FLOAT8, LARGEST, convert_e8m0_scales_to_float
from runner_engine.quantization.grouped import GroupSettings

SIZES = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
E2M1 = torch.cat((SIZES, -SIZES))
MIDDLES = (SIZES[1:] + SIZES[:-1]) / 2
# which neighbour a number in the middle becomes
UP_TO_EVEN = torch.tensor([False, True] * 3 + [False])
SMALLEST_SCALE = 0.125  # of a group of zeros
BYTES: DtypesByName = {"U8": torch.uint8}


@dataclass(frozen=True)
class Mxfp4Layout(StoredLayout):
    """MXFP4 weights: two 4-bit codes per byte, the first in the lower bits. Scales are stored as
    powers of two.
    """

    types: ClassVar[dict[str, DtypesByName]] = {"weight_packed": BYTES, "weight_scale": EXPONENTS}
    scale_name: ClassVar[str] = "weight_scale"

    @property
    def values(self) -> torch.Tensor:
        return E2M1

    @classmethod
    def from_tensors(
        cls, group_settings: GroupSettings, tensors: dict[str, TensorLocation], module: nn.Linear
    ) -> Self:
        """Create the layout of a layer. Raises DataError if the group size does not divide the
        number of inputs.
        """
        cls.check_required_tensors(
            tensors, [name for name in cls.types if name != "input_global_scale" or group_settings.rows]
        )
        inputs = module.in_features
        if inputs % group_settings.group:
            raise build_tensor_error(
                tensors["weight_packed"],
                f"{inputs} inputs are not a multiple of the group size {group_settings.group}",
            )
        layout = cls(4, group_settings.group, inputs, module.out_features, rows=group_settings.rows)
        codes, scales = (layout.outputs, inputs // 2), (layout.outputs, layout.groups)
        return layout.validate_shapes(tensors, {"weight_packed": [codes], "weight_scale": [scales]})

    def scales(self, tensors: Tensors, first_output: int, last_output: int) -> torch.Tensor:
        return convert_e8m0_scales_to_float(tensors["weight_scale"][first_output:last_output])

    def get_packed_scales(self, tensors: Tensors, first_output: int, last_output: int) -> torch.Tensor:
        """Return the scales as 8-bit exponents (e8m0)."""
        return tensors["weight_scale"][first_output:last_output].view(torch.float8_e8m0fnu)

    def find_invalid_numbers(self, tensors: Tensors, tensor_name: str, tensor: torch.Tensor) -> Note | None:
        if (
            tensor_name == "weight_scale"
            and not convert_e8m0_scales_to_float(tensor).float().isfinite().all()
        ):
            return note("scale_not_finite")
        if tensor_name.endswith("global_scale") and not (tensor.isfinite().all() and (tensor > 0).all()):
            return note("layer_scale_not_positive")
        if tensor_name == ("weight_global_scale" if "weight_global_scale" in tensors else "weight_scale"):
            largest = self.scales(tensors, 0, self.outputs).abs().max() * E2M1.max()
            if not largest.isfinite():
                return note("weight_not_finite")
        return None


@dataclass(frozen=True)
class Nvfp4Layout(Mxfp4Layout):
    """NVFP4 weights: one float8 scale per group, divided by one global scale per layer.

    rows: `local` means that activations are rounded to NVFP4.
    """

    types: ClassVar[dict[str, DtypesByName]] = {
        "weight_packed": BYTES,
        "weight_scale": FLOAT8,
        "weight_global_scale": SCALES,
        "input_global_scale": SCALES,
    }
    rounding_layers: ClassVar[str] = "Nvfp4Linear"

    def scales(self, tensors: Tensors, first_output: int, last_output: int) -> torch.Tensor:
        return (
            tensors["weight_scale"][first_output:last_output].float() / tensors["weight_global_scale"].float()
        )

    def get_packed_scales(self, tensors: Tensors, first_output: int, last_output: int) -> torch.Tensor:
        return tensors["weight_scale"][first_output:last_output]

    def scale_divisor(self, tensors: Tensors) -> float:
        """Return the layer's global weight scale, by which the group scales are divided."""
        return float(tensors["weight_global_scale"].detach())

    def round_activations(self, tensors: Tensors, activations: torch.Tensor) -> torch.Tensor:
        whole = tensors["input_global_scale"].float()
        groups = activations.reshape(*activations.shape[:-1], -1, self.group)
        scale = whole * (groups.abs().amax(-1, keepdim=True) / E2M1.max())
        scale = scale.clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn).float()
        scale = torch.where(scale == 0, SMALLEST_SCALE, scale) / whole
        return (round_to_e2m1(groups / scale) * scale).flatten(-2).to(activations.dtype)


def round_to_e2m1(numbers: torch.Tensor) -> torch.Tensor:
    """Round each number to the nearest e2m1 value. Ties go to the even code."""
    sizes, middles, ups = numbers.abs(), MIDDLES.to(numbers.device), UP_TO_EVEN.to(numbers.device)
    found = sum(
        ((sizes >= middle) if up else (sizes > middle)).to(numbers.dtype) * step
        for middle, up, step in zip(middles, ups, SIZES.diff(), strict=True)
    )
    return torch.copysign(torch.as_tensor(found), numbers)
