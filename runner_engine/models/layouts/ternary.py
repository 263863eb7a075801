"""Layout of BitNet's ternary weights (-1, 0, 1), which are multiplied by int8 activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from runner_base.notes import Note, note
from runner_engine.checkpoints.weight_files import TensorLocation
from runner_engine.models.layouts.base import SCALES, DtypesByName, StoredLayout, Tensors, build_tensor_error
from runner_engine.quantization.grouped import GroupSettings

IN_A_BYTE = 4
LEAST = 1e-5  # of the largest number of a row


@dataclass(frozen=True)
class TernaryLayout(StoredLayout):
    """Ternary weights with one scale per layer. A byte holds the codes of four outputs.

    rows: whether outputs are divided or multiplied by the scale.
    """

    types: ClassVar[dict[str, DtypesByName]] = {"weight": {"U8": torch.uint8}, "weight_scale": SCALES}
    named_by: ClassVar[str] = "weight_scale"
    scale_name: ClassVar[str] = "weight_scale"
    rounding_layers: ClassVar[str] = "TernaryLinear"
    zero_code: ClassVar[int] = 1

    @classmethod
    def from_tensors(
        cls, group_settings: GroupSettings, tensors: dict[str, TensorLocation], module: nn.Linear
    ) -> TernaryLayout:
        """Create the layout of a layer. Raises DataError if the number of outputs is not a multiple
        of four.
        """
        cls.check_required_tensors(tensors, cls.types)
        layout = cls(2, module.in_features, module.in_features, module.out_features, rows=group_settings.rows)
        if layout.outputs % IN_A_BYTE:
            raise build_tensor_error(tensors["weight"], f"{layout.outputs} outputs are not a multiple of 4")
        return layout.validate_shapes(tensors, {"weight": [(layout.outputs // IN_A_BYTE, layout.inputs)]})

    def codes(self, tensors: Tensors, first_output: int, last_output: int) -> torch.Tensor:
        packed = tensors["weight"]
        outputs = torch.arange(first_output, last_output, device=packed.device)
        bits = 2 * (outputs // packed.shape[0]).to(torch.uint8).unsqueeze(1)
        return packed[outputs % packed.shape[0]] >> bits & 3

    def scales(self, tensors: Tensors, first_output: int, last_output: int) -> torch.Tensor:
        """Return scales of 1, because `round_activations` applies the layer's scale."""
        return torch.ones(last_output - first_output, 1, device=tensors["weight"].device, dtype=torch.float32)

    def round_activations(self, tensors: Tensors, activations: torch.Tensor) -> torch.Tensor:
        """Round activations to int8 and multiply or divide them by the layer's weight scale."""
        factor = 127 / activations.abs().amax(-1, keepdim=True).clamp(min=LEAST)
        numbers = (activations * factor).round_().clamp_(-128, 127)
        scale = tensors["weight_scale"].to(activations.dtype).reshape(())
        if self.rows == "divided":
            return numbers.div_(scale * factor)
        return numbers.div_(factor).mul_(scale)

    def find_invalid_numbers(self, tensors: Tensors, tensor_name: str, tensor: torch.Tensor) -> Note | None:
        """Return a note if a code is invalid or the scale is not positive, otherwise None."""
        if tensor_name == "weight" and (tensor & tensor >> 1 & 0b01010101).any():
            return note("code_without_weight")
        if tensor_name == "weight_scale" and not (tensor.isfinite().all() and (tensor > 0).all()):
            return note("layer_scale_not_positive")
        return None
