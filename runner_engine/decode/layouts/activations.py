"""Identifies the activation function of an MLP by comparing outputs for test inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from runner_engine.decode.layouts.parts import NotFusable
from runner_engine.kernels.c_interface import Activation

KNOWN: Mapping[Activation, Callable[[torch.Tensor], torch.Tensor]] = {
    Activation.silu: functional.silu,
    Activation.gelu: functional.gelu,
    Activation.tanh_gelu: partial(functional.gelu, approximate="tanh"),
    Activation.relu: functional.relu,
    Activation.squared_relu: lambda numbers: functional.relu(numbers).square(),
}
NEAR = 1e-5  # two kinds of GELU differ by 5e-4
NEARLY = 2e-2  # of the largest number, with products in 16 bits


def identify_activation(function: Any) -> Activation:
    """Return the supported activation that gives the same outputs as a function or module.

    Raises NotFusable if the C kernels do not support it.
    """
    numbers = torch.linspace(-6, 6, 241, dtype=torch.float32)
    expected = function(numbers)
    for kind, known in KNOWN.items():
        if (known(numbers) - expected).abs().max() <= NEAR:
            return kind
    raise NotFusable(f"the C kernels do not support the activation {type(function).__name__}")


def infer_activation(
    mlp: Callable[[Tensor], Tensor], input_layers: tuple[Any, ...], output_layer: Any, hidden_states: Tensor
) -> Activation:
    """Return the activation of an MLP that has no separate activation module.

    Compares a test run of the MLP with each supported activation.
    """
    expected = mlp(hidden_states).float()
    gate, up = (layer(hidden_states) for layer in input_layers)
    off = {
        kind: float((output_layer(known(gate) * up).float() - expected).abs().max())
        for kind, known in KNOWN.items()
    }
    best = min(off, key=lambda kind: off[kind])
    if not off[best] <= NEARLY * float(expected.abs().max()):
        raise NotFusable("the C kernels do not support the MLP's activation")
    return best
