"""Which function an MLP goes through, found by a trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from runner_engine.decode.layouts.parts import NotFusable
from runner_engine.kernels.shared_numbers import Activation

KNOWN: Mapping[Activation, Callable[[torch.Tensor], torch.Tensor]] = {
    Activation.silu: functional.silu,
    Activation.gelu: functional.gelu,
    Activation.tanh_gelu: partial(functional.gelu, approximate="tanh"),
    Activation.relu: functional.relu,
    Activation.squared_relu: lambda numbers: functional.relu(numbers).square(),
}
NEAR = 1e-5  # two kinds of GELU differ by 5e-4
NEARLY = 2e-2  # of the largest number, with products in 16 bits


def activation_of(function: Any) -> Activation:
    """Return what a function computes; NotFusable if it is none that C knows."""
    numbers = torch.linspace(-6, 6, 241, dtype=torch.float32)
    expected = function(numbers)
    for kind, known in KNOWN.items():
        if (known(numbers) - expected).abs().max() <= NEAR:
            return kind
    raise NotFusable(f"its MLP goes through {type(function).__name__}")


def activation_between(
    mlp: Callable[[Tensor], Tensor], into: tuple[Any, ...], out: Any, rows: Tensor
) -> Activation:
    """Return what an MLP without a module for it computes between its layers: the nearest by a
    trial with some rows."""
    expected = mlp(rows).float()
    gate, up = (layer(rows) for layer in into)
    off = {
        kind: float((out(known(gate) * up).float() - expected).abs().max()) for kind, known in KNOWN.items()
    }
    best = min(off, key=lambda kind: off[kind])
    if not off[best] <= NEARLY * float(expected.abs().max()):
        raise NotFusable("its MLP goes through something else")
    return best
