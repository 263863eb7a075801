"""Layers of random codes in groups, in the layouts of stored formats."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from grouped_checkpoints import Integers, awq, gptq, pack_quantized, random_integers
from torch import nn

from runner_engine.models.grouped_linear import GroupedLinear
from runner_engine.models.layouts.float8 import E4M3
from runner_engine.models.layouts.integers import AwqLayout, GptqLayout, PackedLayout

KINDS = ("gptq", "gptq_order", "awq", "packed", "packed_float32")


def layer_of(
    kind: str, outputs: int, inputs: int, bits: int = 4, group: int = 64, bias: torch.Tensor | None = None
) -> tuple[GroupedLinear, Integers]:
    like = nn.Linear(inputs, outputs, bias=False)
    if bias is not None:
        like.bias = nn.Parameter(bias)
    of = random_integers(
        outputs, inputs, bits, group, 1, kind.startswith("packed"), not kind.endswith("_order")
    )
    sizes = bits, inputs if group == -1 else group, inputs, outputs
    if kind == "awq":
        return GroupedLinear(like, AwqLayout(*sizes), awq(of)), of
    if kind.startswith("packed"):
        of.scales = of.scales.to(torch.bfloat16 if kind == "packed" else torch.float32)
        if kind != "packed":
            of.scales *= 1.001  # of more bits than 16
        return GroupedLinear(like, PackedLayout(*sizes), pack_quantized(of, bits, symmetric=True)), of
    return GroupedLinear(like, GptqLayout(*sizes, is_minus_one=False), gptq(of, bits, minus_one=False)), of


def rows_of(count: int, inputs: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(count, inputs, generator=torch.Generator().manual_seed(count)).to(dtype)


E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


@dataclass(frozen=True)
class ValuesLayout(PackedLayout):
    """Codes that stand for values: of a table, or float8."""

    @property
    def values(self) -> torch.Tensor:
        """Return what each code stands for."""
        return E2M1 if self.bits == 4 else E4M3


def values_layer(outputs: int, inputs: int, bits: int, group: int, scales: torch.dtype) -> GroupedLinear:
    seeded = torch.Generator().manual_seed(2)
    codes = torch.randint(0, 2**bits, (outputs, inputs * bits // 8), dtype=torch.uint8, generator=seeded)
    codes[(codes & 127) == 127] = 5  # float8's NaN, which a layer never has
    stored = {
        "weight_packed": codes.view(torch.int32),
        "weight_scale": torch.rand(outputs, -(-inputs // group), generator=seeded).to(scales),
    }
    return GroupedLinear(
        nn.Linear(inputs, outputs, bias=False), ValuesLayout(bits, group, inputs, outputs), stored
    )
