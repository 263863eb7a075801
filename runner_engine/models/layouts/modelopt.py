"""Layers of NVIDIA's Model-Optimizer: float8 or NVFP4, by the number formats and shapes of their
tensors.

A weight is the value of its code times `weight_scale`, of NVFP4 also times `weight_scale_2`. Where
there is an `input_scale`, rows are rounded, too, as the export's own simulation does it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self, cast

import torch
from torch import nn

from runner_base.notes import Note, note
from runner_engine.checkpoints.weight_files import Tensor
from runner_engine.models.layouts.base import ONE_NUMBER, SCALES, Shapes, StoredLayout, Tensors, Types, wrong
from runner_engine.models.layouts.float4 import BYTES, E2M1, Mxfp4Layout, nearest
from runner_engine.models.layouts.float8 import FLOAT8, LARGEST, Float8Layout
from runner_engine.quantization.grouped import GroupSettings

FOUR_BIT_GROUP, EXPONENT_GROUP, BLOCK = 16, 32, 128
IN_A_BYTE: Types = {"U8": torch.uint8}  # an exponent of two


class ModelOptLayout(StoredLayout):
    """Makes the layout of a layer; none has this class itself."""

    types: ClassVar[dict[str, Types]] = {
        "weight": FLOAT8 | BYTES,
        "weight_scale": SCALES | FLOAT8 | IN_A_BYTE,
        "weight_scale_2": SCALES,
        "input_scale": SCALES,
    }
    named_by: ClassVar[str] = "weight_scale"
    scale_name: ClassVar[str] = "weight_scale"

    @classmethod
    def of(cls, settings: GroupSettings, found: dict[str, Tensor], module: nn.Linear) -> StoredLayout:
        """Two codes in a byte are NVFP4; bytes that are numbers are float8."""
        cls.check_present(found, ["weight"])
        kind = ModelOptNvfp4Layout if found["weight"].dtype in BYTES else ModelOptFloat8Layout
        return cast(type[StoredLayout], kind).of(settings, found, module)


@dataclass(frozen=True)
class ModelOptFloat8Layout(Float8Layout):
    """A scale for the layer, each output, each block of 128 × 128, or an exponent for 32 inputs
    (MXFP8)."""

    types: ClassVar[dict[str, Types]] = {
        "weight": FLOAT8,
        "weight_scale": SCALES | IN_A_BYTE,
        "input_scale": SCALES,
    }

    @classmethod
    def of(cls, settings: GroupSettings, found: dict[str, Tensor], module: nn.Linear) -> Self:  # noqa: ARG003
        """The shape of the scales says for what they are."""
        inputs, outputs, scale = module.in_features, module.out_features, found["weight_scale"]
        if "weight_scale_2" in found:
            raise wrong(found["weight_scale_2"], "a layer of float8 has no second scale", "damaged")
        if scale.dtype not in cls.types["weight_scale"]:
            raise wrong(
                scale, f"{scale.dtype}, and a layer of float8 has {' or '.join(cls.types['weight_scale'])}"
            )
        rows = "static" if "input_scale" in found else ""
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
        return layout.checked(found, {"weight": [(outputs, inputs)], "weight_scale": shapes})


@dataclass(frozen=True)
class ModelOptNvfp4Layout(Mxfp4Layout):
    """Groups of 16 with scales in float8, which are multiplied by one number of the whole layer."""

    types: ClassVar[dict[str, Types]] = {
        "weight": BYTES,
        "weight_scale": FLOAT8,
        "weight_scale_2": SCALES,
        "input_scale": SCALES,
    }
    rounding_layers: ClassVar[str] = "Nvfp4Linear"

    @classmethod
    def of(cls, settings: GroupSettings, found: dict[str, Tensor], module: nn.Linear) -> Self:  # noqa: ARG003
        """Inputs are whole groups."""
        cls.check_present(found, ("weight", "weight_scale", "weight_scale_2"))
        inputs, outputs, scale = module.in_features, module.out_features, found["weight_scale"]
        if scale.dtype not in FLOAT8:
            raise wrong(scale, f"{scale.dtype}, and codes of 4 bits have scales in F8_E4M3")
        if inputs % FOUR_BIT_GROUP:
            raise wrong(found["weight"], f"{inputs} inputs are not whole groups of {FOUR_BIT_GROUP}")
        rows = "local" if "input_scale" in found else ""
        layout = cls(4, FOUR_BIT_GROUP, inputs, outputs, rows=rows)
        codes, scales = (outputs, inputs // 2), (outputs, layout.groups)
        return layout.checked(found, {"weight": [codes], "weight_scale": [scales]})

    def scales(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """One output after another."""
        return stored["weight_scale"][first:last].float() * stored["weight_scale_2"].float()

    def panel_scales(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        return stored["weight_scale"][first:last]

    def scale_divisor(self, stored: Tensors) -> float:
        """The kernels divide, and this format multiplies."""
        return 1 / float(stored["weight_scale_2"].detach())

    def prepared(self, stored: Tensors, rows: torch.Tensor) -> torch.Tensor:
        """Return rows as the numbers that their codes stand for."""
        whole = stored["input_scale"].float()
        groups = rows.float().reshape(*rows.shape[:-1], -1, self.group)
        scale = (groups.abs().amax(-1, keepdim=True) / E2M1.max() / whole).clamp(max=LARGEST)
        scale = scale.to(torch.float8_e4m3fn).float() * whole
        scale = torch.where(scale == 0, 1.0, scale)
        return (nearest(groups / scale) * scale).flatten(-2).to(rows.dtype)

    def problem(self, stored: Tensors, name: str, tensor: torch.Tensor) -> Note | None:
        """Scales are numbers, also together, and those of whole layers above 0."""
        if name in ("weight_scale_2", "input_scale") and not (tensor.isfinite().all() and (tensor > 0).all()):
            return note("layer_scale_not_positive")
        if name == "weight_scale" and not tensor.float().isfinite().all():
            return note("scale_not_finite")
        if (
            name == "weight_scale_2"
            and not (self.scales(stored, 0, self.outputs).abs().max() * E2M1.max()).isfinite()
        ):
            return note("weight_not_finite")
        return None
