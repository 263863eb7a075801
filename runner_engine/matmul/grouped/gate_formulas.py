"""Finds the C formula that matches a model's gate function, by comparing both on random numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from runner_engine.kernels.c_interface import Activation

# the names that families have for them
LIMITS, ALPHAS = (("limit", "swiglu_limit"), ("alpha", "swiglu_alpha"))
TRIAL_SCALE = 12.0  # of the numbers that are tried: beyond the limits that families have
FUNCTIONS = tuple(kind for kind in Activation if kind is not Activation.silu_in_product)
ALLOWED = 1e-5  # of the largest result: other orders of the same steps


@dataclass(frozen=True)
class GateFormula:
    """The gate formula act(min(gate, limit), alpha) * (clamp(up, limit) + shift).

    A limit of 0 means no limit.
    """

    activation: Activation
    alpha: float = 1.0
    limit: float = 0.0
    shift: float = 0.0

    def __call__(self, gate: torch.Tensor, up: torch.Tensor | None = None) -> torch.Tensor:
        """Apply the formula. Without `up`, return only the activation function applied to `gate`."""
        if self.limit:
            gate = gate.clamp(max=self.limit)
        activated = _apply_activation(self.activation, self.alpha, gate)
        if up is None:
            return activated
        if self.limit:
            up = up.clamp(min=-self.limit, max=self.limit)
        return activated * (up + self.shift)


def find_c_formula_for_gate(
    apply_gate: Any, original_experts: nn.Module, has_gate: bool
) -> GateFormula | None:
    """Return the C formula that gives the same results as the model's function `apply_gate`, or None.

    original_experts: the module whose attributes may be limits and factors.
    """
    random = torch.Generator().manual_seed(0)
    numbers = [
        torch.randn(3, 64, generator=random, dtype=torch.float32) * TRIAL_SCALE
        for _ in range(2 if has_gate else 1)
    ]
    expected = apply_gate(*numbers)
    for formula in _iter_candidate_formulas(original_experts):
        found = formula(*numbers)
        if float((found - expected).abs().max()) <= ALLOWED * float(expected.abs().max()):
            return formula
    return None


def _iter_candidate_formulas(original_experts: nn.Module) -> Iterator[GateFormula]:
    limits = [
        float(value)
        for name in LIMITS
        if isinstance(value := getattr(original_experts, name, None), int | float)
    ]
    alphas = [
        float(value)
        for name in ALPHAS
        if isinstance(value := getattr(original_experts, name, None), int | float)
    ]
    for activation in FUNCTIONS:
        yield GateFormula(activation)
        for limit in limits:
            yield GateFormula(activation, 1.0, limit)
            for alpha in alphas:
                yield GateFormula(activation, alpha, limit, 1.0)


def _apply_activation(activation: Activation, alpha: float, gate: torch.Tensor) -> torch.Tensor:
    if activation is Activation.silu:
        return gate * torch.sigmoid(gate * alpha)
    if activation is Activation.gelu:
        return nn.functional.gelu(gate)
    if activation is Activation.tanh_gelu:
        return nn.functional.gelu(gate, approximate="tanh")
    positive = torch.relu(gate)
    return positive if activation is Activation.relu else positive.square()
