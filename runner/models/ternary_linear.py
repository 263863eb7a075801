"""Linear layers of ternary weights, whose rows are rounded to int8, as BitNet has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from runner.checkpoints.weight_files import Tensor
from runner.models.group_layouts import Layout, Tensors
from runner.models.grouped import GroupedLinear
from runner.models.layout_reader import SCALES, LayoutReader, check_present, check_shape, wrong
from runner.quantization.grouped import GroupSettings

IN_A_BYTE = 4
LEAST = 1e-5  # of the largest number of a row


@dataclass(frozen=True)
class TernaryLayout(Layout):
    """A byte has the codes of four outputs, a quarter of all apart; the layer's one scale belongs to its rows."""

    rows: str = "divided"  # how the scale counts: outputs are divided or multiplied by it
    names: ClassVar[tuple[str, ...]] = ("weight", "weight_scale")
    named_by: ClassVar[str] = "weight_scale"
    scale_name: ClassVar[str] = "weight_scale"
    order_name: ClassVar[str] = ""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The scale may be a number, a list or a matrix."""
        return {"weight": (self.outputs // IN_A_BYTE, self.inputs)}

    def codes(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """The outputs of a quarter have the same bits of their bytes."""
        packed = stored["weight"]
        outputs = torch.arange(first, last, device=packed.device)
        bits = 2 * (outputs // packed.shape[0]).to(torch.uint8).unsqueeze(1)
        return packed[outputs % packed.shape[0]] >> bits & 3

    def scales(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """Weights are what their codes say."""
        return torch.ones(last - first, 1, device=stored["weight"].device)

    def zeros(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """The code of 0 is 1."""
        return stored["weight"].new_ones(1, 1)


class TernaryLinear(GroupedLinear):
    """A layer whose rows are rounded to int8, and scaled as its outputs are."""

    layout: TernaryLayout

    def prepared(self, rows: torch.Tensor) -> torch.Tensor:
        """Return rows as the numbers that their int8 stand for, times the scale of the weights."""
        factor = 127 / rows.abs().amax(-1, keepdim=True).clamp(min=LEAST)
        numbers = (rows * factor).round_().clamp_(-128, 127)
        scale = self.stored["weight_scale"].to(rows.dtype).reshape(())
        if self.layout.rows == "divided":
            return numbers.div_(scale * factor)
        return numbers.div_(factor).mul_(scale)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Round the rows, and multiply them by weights that are unpacked some outputs at a time."""
        return super().forward(self.prepared(input))


class TernaryReader(LayoutReader):
    """Reads BitNet's layers."""

    kind = TernaryLayout

    def layout_of(self, settings: GroupSettings, found: dict[str, Tensor], module: nn.Linear) -> Layout:
        """Outputs are whole quarters."""
        check_present(found, ["weight", "weight_scale"])
        inputs, outputs = module.in_features, module.out_features
        if outputs % IN_A_BYTE:
            raise wrong(found["weight"], f"{outputs} outputs are not four quarters")
        layout = TernaryLayout(2, inputs, inputs, outputs, rows=settings.rows)
        for name, one in found.items():
            check_shape(one, [layout.shapes()["weight"]] if name == "weight" else [(), (1,), (1, 1)], module)
        return layout

    def types(self, name: str) -> dict[str, torch.dtype]:
        """Codes are bytes."""
        return {"U8": torch.uint8} if name == "weight" else SCALES

    def is_needed(self, tensor: Tensor) -> bool:
        """Bytes without a scale would be loaded as if they were weights."""
        is_packed = tensor.name.endswith(".weight") and tensor.dtype == "U8"
        return is_packed or tensor.name.endswith(".weight_scale")

    def layer(self, like: nn.Linear, layout: Layout, stored: dict[str, torch.Tensor]) -> GroupedLinear:
        """All round their rows."""
        return TernaryLinear(like, layout, stored)

    def problem(self, layer: GroupedLinear, name: str, tensor: torch.Tensor) -> str:
        """Of two bits, three codes stand for a weight."""
        if name == "weight" and (tensor & tensor >> 1 & 0b01010101).any():
            return "a code of 3 stands for no weight: they are 0, 1 and 2"
        if name == "weight_scale" and not (tensor.isfinite().all() and (tensor > 0).all()):
            return "the scale of the layer is not a finite number above 0"
        return ""
