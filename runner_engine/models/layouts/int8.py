"""Layout of int8 weights with one scale per output, and optionally int8 activations.

compressed-tensors stores them as int-quantized (W8A8, W8A16). The activation scale is
computed per token, or stored once in the checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from runner_base.notes import Note, note
from runner_engine.checkpoints.weight_files import TensorLocation
from runner_engine.models.layouts.base import ONE_NUMBER, SCALES, DtypesByName, Shapes, StoredLayout, Tensors
from runner_engine.quantization.grouped import GroupSettings

LARGEST = 127.5  # a row's scale is its largest number, divided by this: half of the range of a byte
BYTES: DtypesByName = {"I8": torch.int8}


@dataclass(frozen=True)
class Int8Layout(StoredLayout):
    """Signed int8 weights with one scale per output or one per layer.

    rows: activation scales are computed (dynamic), or stored in the checkpoint (static).
    """

    types: ClassVar[dict[str, DtypesByName]] = {
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
    def from_tensors(
        cls, group_settings: GroupSettings, tensors: dict[str, TensorLocation], module: nn.Linear
    ) -> Int8Layout:
        """Create the layout of a layer. The scale tensor has one number for the layer, or one per output."""
        cls.check_required_tensors(
            tensors, ["weight", "weight_scale"] + ["input_scale"] * (group_settings.rows == "static")
        )
        layout = cls(8, module.in_features, module.in_features, module.out_features, rows=group_settings.rows)
        of_outputs: Shapes = [(layout.outputs,), (layout.outputs, 1), *ONE_NUMBER]
        weights: Shapes = [(layout.outputs, layout.inputs)]
        return layout.validate_shapes(
            tensors, {"weight": weights, "weight_scale": of_outputs, "weight_zero_point": of_outputs}
        )

    def codes(self, tensors: Tensors, first_output: int, last_output: int) -> torch.Tensor:
        """Return the codes of a range of outputs as unsigned bytes: the signed codes plus 128."""
        return tensors["weight"][first_output:last_output].view(torch.uint8) ^ 128

    def scales(self, tensors: Tensors, first_output: int, last_output: int) -> torch.Tensor:
        return tensors["weight_scale"].reshape(-1, 1).expand(self.outputs, 1)[first_output:last_output]

    def get_activation_scale(self, tensors: Tensors) -> float:
        """Return the activation scale stored in the checkpoint. 0 if scales are computed per token."""
        return float(tensors["input_scale"].detach()) if self.rows == "static" else 0.0

    def get_activation_zero_point(self, tensors: Tensors) -> int:
        """Return the activation zero point stored in the checkpoint. 0 if none is stored."""
        is_given = self.rows == "static" and "input_zero_point" in tensors
        return int(tensors["input_zero_point"].detach()) if is_given else 0

    def quantize_activations(
        self, tensors: Tensors, activations: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Quantize activations to int8. Returns the integers in the dtype of the activations, and their
        scales.

        The arithmetic equals that of compressed-tensors.
        """
        if self.rows == "static":
            scale = tensors["input_scale"].to(activations.dtype)
        else:
            scale = (
                torch.maximum(activations.amax(-1, keepdim=True), -activations.amin(-1, keepdim=True))
                / LARGEST
            )
            scale = torch.where(scale == 0, torch.finfo(activations.dtype).eps, scale)
        return (activations / scale).add_(self.get_activation_zero_point(tensors)).clamp_(
            -128, 127
        ).round_(), scale

    def round_activations(self, tensors: Tensors, activations: torch.Tensor) -> torch.Tensor:
        numbers, scale = self.quantize_activations(tensors, activations)
        return numbers.sub_(self.get_activation_zero_point(tensors)).mul_(scale)

    def find_invalid_numbers(self, tensors: Tensors, tensor_name: str, tensor: torch.Tensor) -> Note | None:
        if tensor_name == "weight_zero_point" and tensor.any():
            return note("zero_point_of_symmetric")
        return super().find_invalid_numbers(tensors, tensor_name, tensor)
