"""Ternary weights, whose rows are rounded to int8, as BitNet has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from runner_base.notes import Note, note
from runner_engine.checkpoints.weight_files import Tensor
from runner_engine.models.layouts.base import SCALES, StoredLayout, Tensors, Types, wrong
from runner_engine.quantization.grouped import GroupSettings

IN_A_BYTE = 4
LEAST = 1e-5  # of the largest number of a row


@dataclass(frozen=True)
class TernaryLayout(StoredLayout):
    """A byte has the codes of four outputs, a quarter of all apart; the layer's one scale belongs
    to its rows.

    rows: outputs are divided or multiplied by the scale.
    """

    types: ClassVar[dict[str, Types]] = {"weight": {"U8": torch.uint8}, "weight_scale": SCALES}
    named_by: ClassVar[str] = "weight_scale"
    scale_name: ClassVar[str] = "weight_scale"
    rounding_layers: ClassVar[str] = "TernaryLinear"
    zero_code: ClassVar[int] = 1

    @classmethod
    def of(cls, settings: GroupSettings, found: dict[str, Tensor], module: nn.Linear) -> TernaryLayout:
        """Outputs are whole quarters."""
        cls.check_present(found, cls.types)
        layout = cls(2, module.in_features, module.in_features, module.out_features, rows=settings.rows)
        if layout.outputs % IN_A_BYTE:
            raise wrong(found["weight"], f"{layout.outputs} outputs are not four quarters")
        return layout.checked(found, {"weight": [(layout.outputs // IN_A_BYTE, layout.inputs)]})

    def codes(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """The outputs of a quarter have the same bits of their bytes."""
        packed = stored["weight"]
        outputs = torch.arange(first, last, device=packed.device)
        bits = 2 * (outputs // packed.shape[0]).to(torch.uint8).unsqueeze(1)
        return packed[outputs % packed.shape[0]] >> bits & 3

    def scales(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """Weights are what their codes say."""
        return torch.ones(last - first, 1, device=stored["weight"].device, dtype=torch.float32)

    def prepared(self, stored: Tensors, rows: torch.Tensor) -> torch.Tensor:
        """Return rows as the numbers that their int8 stand for, times the scale of the weights."""
        factor = 127 / rows.abs().amax(-1, keepdim=True).clamp(min=LEAST)
        numbers = (rows * factor).round_().clamp_(-128, 127)
        scale = stored["weight_scale"].to(rows.dtype).reshape(())
        if self.rows == "divided":
            return numbers.div_(scale * factor)
        return numbers.div_(factor).mul_(scale)

    def problem(self, stored: Tensors, name: str, tensor: torch.Tensor) -> Note | None:
        """Of two bits, three codes stand for a weight."""
        if name == "weight" and (tensor & tensor >> 1 & 0b01010101).any():
            return note("code_without_weight")
        if name == "weight_scale" and not (tensor.isfinite().all() and (tensor > 0).all()):
            return note("layer_scale_not_positive")
        return None
