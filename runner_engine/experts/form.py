"""How a family fuses the experts of a layer into parameters with three dimensions, and how one is
taken out again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from runner_engine.checkpoints.experts import DOWN, GATE, UP


@dataclass(frozen=True)
class Form:
    """What transformers says of a family's fused experts."""

    has_gate: bool = True  # gate_up_proj and down_proj; else up_proj and down_proj
    has_bias: bool = False  # NAME_bias beside each, [experts, outputs]
    is_transposed: bool = False  # [experts, inputs, outputs] instead of [experts, outputs, inputs]
    is_concatenated: bool = True  # gates, then ups; else they alternate
    has_post_norm: bool = False  # each expert's result goes through post_expert_norm
    takes_sorted_rows: bool = False  # one argument: as many rows for each expert, in the experts' order

    @property
    def matrices(self) -> tuple[str, ...]:
        """Return the names of an expert's matrices, in the order in which they are used."""
        return (GATE, UP, DOWN) if self.has_gate else (UP, DOWN)

    def fused_name(self, matrix: str) -> str:
        """Return the name of the parameter that holds this matrix of all experts."""
        return "gate_up_proj" if self.has_gate and matrix != DOWN else matrix


# families whose class says nothing of its form, by the name of the class
UNSAID: Mapping[str, Form] = {"Llama4TextExperts": Form(is_transposed=True, takes_sorted_rows=True)}


def form_of(module: nn.Module) -> Form | None:
    """Return the form of a module's fused experts; None if it has none that can be taken apart."""
    form = UNSAID.get(type(module).__name__)
    if form is None:
        if not hasattr(module, "is_concatenated") or not hasattr(module, "is_transposed"):
            return None
        said = ("has_gate", "has_bias", "is_transposed", "is_concatenated", "has_post_expert_norm")
        form = Form(*(bool(getattr(module, name)) for name in said))
    fused = (module._parameters.get(form.fused_name(matrix)) for matrix in form.matrices)
    return form if all(weight is not None and weight.dim() == 3 for weight in fused) else None


def apart(form: Form, matrix: str, of_expert: torch.Tensor) -> torch.Tensor:
    """Return a matrix, [outputs, inputs], of what a fused parameter has for one expert; a view of
    it.

    A bias is taken out in the same way, from its one dimension.
    """
    if form.is_transposed and of_expert.dim() == 2:
        of_expert = of_expert.T
    if not form.has_gate or matrix == DOWN:
        return of_expert
    half = len(of_expert) // 2
    if form.is_concatenated:
        return of_expert[:half] if matrix == GATE else of_expert[half:]
    return of_expert[0::2] if matrix == GATE else of_expert[1::2]


def together(form: Form, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Return what the two matrices give in the order in which the family's own gate takes it."""
    if form.is_concatenated:
        return torch.cat((gate, up), dim=-1)
    return torch.stack((gate, up), dim=-1).flatten(-2)
