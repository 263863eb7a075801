"""Layouts of NVIDIA Model-Optimizer weights: float8 or NVFP4, detected from tensor dtypes and shapes.

A weight is the number that its code stands for times `weight_scale`; for NVFP4 also times
`weight_scale_2`. If an `input_scale` is stored, activations are rounded as well, with the
arithmetic of the export's own simulation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self, cast

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
from runner_engine.models.layouts.float4 import BYTES, E2M1, Mxfp4Layout, round_to_e2m1
from runner_engine.models.layouts.float8 import FLOAT8, LARGEST, Float8Layout
from runner_engine.quantization.grouped import GroupSettings

FOUR_BIT_GROUP, EXPONENT_GROUP, BLOCK = 16, 32, 128
IN_A_BYTE: DtypesByName = {"U8": torch.uint8}  # an exponent of two


class ModelOptLayout(StoredLayout):
    """Chooses the float8 or NVFP4 layout for a layer of a Model-Optimizer checkpoint. The class is
    never instantiated.
    """

    types: ClassVar[dict[str, DtypesByName]] = {
        "weight": FLOAT8 | BYTES,
        "weight_scale": SCALES | FLOAT8 | IN_A_BYTE,
        "weight_scale_2": SCALES,
        "input_scale": SCALES,
    }
    named_by: ClassVar[str] = "weight_scale"
    scale_name: ClassVar[str] = "weight_scale"

    @classmethod
    def from_tensors(
        cls, group_settings: GroupSettings, tensors: dict[str, TensorLocation], module: nn.Linear
    ) -> StoredLayout:
        """Return an NVFP4 layout if the codes are packed in bytes, otherwise a float8 layout."""
        cls.check_required_tensors(tensors, ["weight"])
        kind = ModelOptNvfp4Layout if tensors["weight"].dtype in BYTES else ModelOptFloat8Layout
        return cast(type[StoredLayout], kind).from_tensors(group_settings, tensors, module)


@dataclass(frozen=True)
class ModelOptFloat8Layout(Float8Layout):
    """Model-Optimizer's float8 weights, with one scale per layer, output, 128 × 128 block, or 32
    inputs (MXFP8).
    """

    types: ClassVar[dict[str, DtypesByName]] = {
        "weight": FLOAT8,
        "weight_scale": SCALES | IN_A_BYTE,
        "input_scale": SCALES,
    }

    @classmethod
    def from_tensors(
        cls,
        group_settings: GroupSettings,  # noqa: ARG003
        tensors: dict[str, TensorLocation],
        module: nn.Linear,
    ) -> Self:
        inputs, outputs, scale = module.in_features, module.out_features, tensors["weight_scale"]
        if "weight_scale_2" in tensors:
            raise build_tensor_error(
                tensors["weight_scale_2"], "a float8 layer must not have a second scale", "damaged"
            )
        if scale.dtype not in cls.types["weight_scale"]:
            raise build_tensor_error(
                scale,
                f"the scale has the dtype {scale.dtype}, but a float8 layer needs "
                f"{' or '.join(cls.types['weight_scale'])}",
            )
        rows = "static" if "input_scale" in tensors else ""
        shapes: Shapes = [*ONE_NUMBER]
        group, of_outputs = inputs, outputs
        if scale.dtype in IN_A_BYTE:
            group, of_outputs = EXPONENT_GROUP, 1
            shapes = [(outputs, -(-inputs // group))]
        elif len(scale.shape) == 4 or (len(scale.shape) == 2 and 1 not in scale.shape):
            group, of_outputs = min(BLOCK, inputs), BLOCK
            of_blocks = -(-outputs // BLOCK), -(-inputs // BLOCK)
            shapes = [of_blocks, (of_blocks[0], 1, of_blocks[1], 1)]
        elif scale.shape not in ONE_NUMBER:
            rows, of_outputs = rows or "dynamic", 1
            shapes = [(outputs,), (outputs, 1)]
        layout = cls(8, group, inputs, outputs, of_outputs, rows=rows)
        return layout.validate_shapes(tensors, {"weight": [(outputs, inputs)], "weight_scale": shapes})


@dataclass(frozen=True)
class ModelOptNvfp4Layout(Mxfp4Layout):
    """Model-Optimizer's NVFP4 weights: a float8 scale per group of 16 inputs, times one scale per layer."""

    types: ClassVar[dict[str, DtypesByName]] = {
        "weight": BYTES,
        "weight_scale": FLOAT8,
        "weight_scale_2": SCALES,
        "input_scale": SCALES,
    }
    rounding_layers: ClassVar[str] = "Nvfp4Linear"

    @classmethod
    def from_tensors(
        cls,
        group_settings: GroupSettings,  # noqa: ARG003
        tensors: dict[str, TensorLocation],
        module: nn.Linear,
    ) -> Self:
        """Create the layout of a layer. Raises DataError if the group size does not divide the
        number of inputs.
        """
        cls.check_required_tensors(tensors, ("weight", "weight_scale", "weight_scale_2"))
        inputs, outputs, scale = module.in_features, module.out_features, tensors["weight_scale"]
        if scale.dtype not in FLOAT8:
            raise build_tensor_error(
                scale, f"the scale has the dtype {scale.dtype}, but 4-bit codes need F8_E4M3"
            )
        if inputs % FOUR_BIT_GROUP:
            raise build_tensor_error(
                tensors["weight"], f"{inputs} inputs are not a multiple of the group size {FOUR_BIT_GROUP}"
            )
        rows = "local" if "input_scale" in tensors else ""
        layout = cls(4, FOUR_BIT_GROUP, inputs, outputs, rows=rows)
        codes, scales = (outputs, inputs // 2), (outputs, layout.groups)
        return layout.validate_shapes(tensors, {"weight": [codes], "weight_scale": [scales]})

    def scales(self, tensors: Tensors, first_output: int, last_output: int) -> torch.Tensor:
        return tensors["weight_scale"][first_output:last_output].float() * tensors["weight_scale_2"].float()

    def get_packed_scales(self, tensors: Tensors, first_output: int, last_output: int) -> torch.Tensor:
        return tensors["weight_scale"][first_output:last_output]

    def scale_divisor(self, tensors: Tensors) -> float:
        """Return the inverse of the layer's global scale, because the kernels divide by the result."""
        return 1 / float(tensors["weight_scale_2"].detach())

    def round_activations(self, tensors: Tensors, activations: torch.Tensor) -> torch.Tensor:
        """Round activations to NVFP4."""
        whole = tensors["input_scale"].float()
        groups = activations.float().reshape(*activations.shape[:-1], -1, self.group)
        scale = (groups.abs().amax(-1, keepdim=True) / E2M1.max() / whole).clamp(max=LARGEST)
        scale = scale.to(torch.float8_e4m3fn).float() * whole
        scale = torch.where(scale == 0, 1.0, scale)
        return (round_to_e2m1(groups / scale) * scale).flatten(-2).to(activations.dtype)

    def find_invalid_numbers(self, tensors: Tensors, tensor_name: str, tensor: torch.Tensor) -> Note | None:
        """Return a note if a scale is not finite or a per-layer scale is not positive, otherwise None."""
        if tensor_name in ("weight_scale_2", "input_scale") and not (
            tensor.isfinite().all() and (tensor > 0).all()
        ):
            return note("layer_scale_not_positive")
        if tensor_name == "weight_scale" and not tensor.float().isfinite().all():
            return note("scale_not_finite")
        if (
            tensor_name == "weight_scale_2"
            and not (self.scales(tensors, 0, self.outputs).abs().max() * E2M1.max()).isfinite()
        ):
            return note("weight_not_finite")
        return None
