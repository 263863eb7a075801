"""float8 weights (e4m3) with scales for outputs, blocks or groups, as compressed-tensors, FBGEMM
and fp8 store them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import nn

from runner_base.notes import Note, note
from runner_engine.checkpoints.weight_files import Tensor
from runner_engine.models.layouts.base import ONE_NUMBER, SCALES, Shapes, StoredLayout, Tensors, Types, wrong
from runner_engine.quantization.grouped import GroupSettings

LARGEST = 448  # of e4m3
E4M3 = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
FLOAT8: Types = {"F8_E4M3": torch.float8_e4m3fn}
# powers of two; both are the same bytes
EXPONENTS: Types = {"F8_E8M0": torch.float8_e8m0fnu, "U8": torch.uint8}


@dataclass(frozen=True)
class Float8Layout(StoredLayout):
    """Bytes of e4m3; rows: by the largest number of each (dynamic), or by the checkpoint's scale
    (static)."""

    of_outputs: int  # that share a scale
    row_group: int = -1  # numbers of a row that share a scale; -1: all
    types: ClassVar[dict[str, Types]] = {
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
        """What each byte stands for."""
        return E4M3

    @classmethod
    def of(cls, settings: GroupSettings, found: dict[str, Tensor], module: nn.Linear) -> Self:
        """A scale for all may be a number, a list or a matrix; any other shape follows from the
        blocks."""
        inputs, outputs = module.in_features, module.out_features
        cls.check_present(found, ["weight", cls.scale_name] + ["input_scale"] * (settings.rows == "static"))
        if settings.row_group != -1 and inputs % settings.row_group:
            raise wrong(found["weight"], f"{inputs} inputs are not whole groups of {settings.row_group}")
        is_one = settings.outputs == -1 or (
            settings.group == -1 and found[cls.scale_name].shape in ONE_NUMBER
        )
        group = inputs if settings.group == -1 else min(settings.group, inputs)
        of_outputs = outputs if is_one else settings.outputs
        layout = cls(8, group, inputs, outputs, of_outputs, settings.row_group, rows=settings.rows)
        by_output: Shapes = [(outputs,)] * (settings.outputs == 1 and settings.group == -1)
        scales = ONE_NUMBER if is_one else [(-(-outputs // of_outputs), layout.groups), *by_output]
        return layout.checked(found, {"weight": [(outputs, inputs)], cls.scale_name: scales})

    @classmethod
    def is_needed(cls, tensor: Tensor) -> bool:
        """Float8 of any kind without a scale would be loaded as if they were weights."""
        is_weight = tensor.name.endswith(".weight") and tensor.dtype.startswith("F8")
        return is_weight or tensor.name.endswith(f".{cls.scale_name}") or super().is_needed(tensor)

    def scales(self, stored: Tensors, first: int, last: int) -> torch.Tensor:
        """Outputs of a block have the same scales."""
        scales = as_numbers(stored[self.scale_name]).reshape(-1, self.groups)
        return scales[torch.arange(first, last, device=scales.device) // self.of_outputs]

    def prepared(self, stored: Tensors, rows: torch.Tensor) -> torch.Tensor:
        """Return rows as the numbers that their float8 stand for, as the library does."""
        if self.rows == "static":
            return _rounded(rows, stored["input_scale"].to(rows.dtype))
        inputs = rows.shape[-1]
        groups = rows.reshape(*rows.shape[:-1], -1, inputs if self.row_group == -1 else self.row_group)
        scale = groups.abs().amax(-1, keepdim=True) / LARGEST
        return _rounded(groups, torch.where(scale == 0, torch.finfo(rows.dtype).eps, scale)).flatten(-2)

    def problem(self, stored: Tensors, name: str, tensor: torch.Tensor) -> Note | None:
        """A byte may be no number."""
        if name == "weight" and ((tensor.view(torch.uint8) & 127) == 127).any():
            return note("weight_not_number")
        return super().problem(stored, name, as_numbers(tensor) if name == self.scale_name else tensor)


@dataclass(frozen=True)
class BlockFloat8Layout(Float8Layout):
    """The same, as transformers' method fp8 names the tensors."""

    types: ClassVar[dict[str, Types]] = {
        "weight": FLOAT8,
        "weight_scale_inv": SCALES | EXPONENTS,
        "activation_scale": SCALES,
    }
    named_by: ClassVar[str] = "weight_scale_inv"
    scale_name: ClassVar[str] = "weight_scale_inv"


def as_numbers(scales: torch.Tensor) -> torch.Tensor:
    """Return scales that may be exponents as numbers; an exponent of 255 is none."""
    if scales.dtype is torch.uint8:
        scales = scales.view(torch.float8_e8m0fnu)
    return scales.float() if scales.dtype is torch.float8_e8m0fnu else scales


def _rounded(rows: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (rows / scale).clamp_(-LARGEST, LARGEST).to(torch.float8_e4m3fn).to(rows.dtype).mul_(scale)
