"""Layouts of float8 (e4m3) weights with scales per output, block or group.

They cover the formats of compressed-tensors, FBGEMM and transformers' fp8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import nn

from runner_base.notes import Note, note
from runner_engine.checkpoints.weight_files import TensorLocation
from runner_engine.models.layouts.base import (
    ONE_NUMBER,
    SCALES,
    DtypesByName,
    Shapes,
    StoredLayout,
    Tensors,
    build_tensor_error,
)
from runner_engine.quantization.grouped import GroupSettings

LARGEST = 448  # of e4m3
E4M3 = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
FLOAT8: DtypesByName = {"F8_E4M3": torch.float8_e4m3fn}
# powers of two; both are the same bytes
EXPONENTS: DtypesByName = {"F8_E8M0": torch.float8_e8m0fnu, "U8": torch.uint8}


@dataclass(frozen=True)
class Float8Layout(StoredLayout):
    """Weights in float8 (e4m3) with one scale per output, block or group.

    rows: activation scales are computed per token (dynamic), or stored in the checkpoint (static).
    """

    of_outputs: int  # that share a scale
    row_group: int = -1  # numbers of a row that share a scale; -1: all
    types: ClassVar[dict[str, DtypesByName]] = {
        "weight": FLOAT8,
        "weight_scale": SCALES | EXPONENTS,
        "input_scale": SCALES,
        "input_scale_ub": SCALES,
    }
    named_by: ClassVar[str] = "weight_scale"
    scale_name: ClassVar[str] = "weight_scale"
    rounding_layers: ClassVar[str] = "Float8Linear"

    @property
    def values(self) -> torch.Tensor:
        return E4M3

    @classmethod
    def from_tensors(
        cls, group_settings: GroupSettings, tensors: dict[str, TensorLocation], module: nn.Linear
    ) -> Self:
        """Create the layout of a layer. The shape of the scale tensor determines which weights share a scale.

        A per-layer scale may be stored as a number, a list or a matrix. Any other shape must match
        the block size.
        """
        inputs, outputs = module.in_features, module.out_features
        cls.check_required_tensors(
            tensors, ["weight", cls.scale_name] + ["input_scale"] * (group_settings.rows == "static")
        )
        if group_settings.row_group != -1 and inputs % group_settings.row_group:
            raise build_tensor_error(
                tensors["weight"],
                f"{inputs} inputs are not a multiple of the group size {group_settings.row_group}",
            )
        is_one = group_settings.outputs == -1 or (
            group_settings.group == -1 and tensors[cls.scale_name].shape in ONE_NUMBER
        )
        group = inputs if group_settings.group == -1 else min(group_settings.group, inputs)
        of_outputs = outputs if is_one else group_settings.outputs
        layout = cls(
            8, group, inputs, outputs, of_outputs, group_settings.row_group, rows=group_settings.rows
        )
        by_output: Shapes = [(outputs,)] * (group_settings.outputs == 1 and group_settings.group == -1)
        scales = ONE_NUMBER if is_one else [(-(-outputs // of_outputs), layout.groups), *by_output]
        return layout.validate_shapes(tensors, {"weight": [(outputs, inputs)], cls.scale_name: scales})

    @classmethod
    def requires_layout(cls, tensor: TensorLocation) -> bool:
        is_weight = tensor.name.endswith(".weight") and tensor.dtype.startswith("F8")
        return is_weight or tensor.name.endswith(f".{cls.scale_name}") or super().requires_layout(tensor)

    def scales(self, tensors: Tensors, first_output: int, last_output: int) -> torch.Tensor:
        """Return the scales of a range of outputs. Outputs of one block share their scales."""
        scales = convert_e8m0_scales_to_float(tensors[self.scale_name]).reshape(-1, self.groups)
        return scales[torch.arange(first_output, last_output, device=scales.device) // self.of_outputs]

    def round_activations(self, tensors: Tensors, activations: torch.Tensor) -> torch.Tensor:
        if self.rows == "static":
            return _round_to_float8(activations, tensors["input_scale"].to(activations.dtype))
        inputs = activations.shape[-1]
        groups = activations.reshape(
            *activations.shape[:-1], -1, inputs if self.row_group == -1 else self.row_group
        )
        scale = groups.abs().amax(-1, keepdim=True) / LARGEST
        return _round_to_float8(
            groups, torch.where(scale == 0, torch.finfo(activations.dtype).eps, scale)
        ).flatten(-2)

    def find_invalid_numbers(self, tensors: Tensors, tensor_name: str, tensor: torch.Tensor) -> Note | None:
        """Return a note if a weight is NaN or a scale is not finite, otherwise None."""
        if tensor_name == "weight" and ((tensor.view(torch.uint8) & 127) == 127).any():
            return note("weight_not_number")
        return super().find_invalid_numbers(
            tensors,
            tensor_name,
            convert_e8m0_scales_to_float(tensor) if tensor_name == self.scale_name else tensor,
        )


@dataclass(frozen=True)
class BlockFloat8Layout(Float8Layout):
    """Float8Layout with the tensor names of transformers' fp8 quantization."""

    types: ClassVar[dict[str, DtypesByName]] = {
        "weight": FLOAT8,
        "weight_scale_inv": SCALES | EXPONENTS,
        "activation_scale": SCALES,
    }
    named_by: ClassVar[str] = "weight_scale_inv"
    scale_name: ClassVar[str] = "weight_scale_inv"


def convert_e8m0_scales_to_float(scales: torch.Tensor) -> torch.Tensor:
    """Convert scales stored as 8-bit exponents to numbers. Exponent 255 becomes NaN."""
    if scales.dtype is torch.uint8:
        scales = scales.view(torch.float8_e8m0fnu)
    return scales.float() if scales.dtype is torch.float8_e8m0fnu else scales


def _round_to_float8(activations: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (
        (activations / scale)
        .clamp_(-LARGEST, LARGEST)
        .to(torch.float8_e4m3fn)
        .to(activations.dtype)
        .mul_(scale)
    )
