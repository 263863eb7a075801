"""Describes how a model family fuses experts into 3-D parameters, and selects a single expert's matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from runner_engine.checkpoints.experts import DOWN, GATE, UP


@dataclass(frozen=True)
class ExpertFormat:
    """The layout of a model family's fused experts, as transformers' class declares it."""

    has_gate: bool = True  # gate_up_proj and down_proj; else up_proj and down_proj
    has_bias: bool = False  # NAME_bias beside each, [experts, outputs]
    is_transposed: bool = False  # [experts, inputs, outputs] instead of [experts, outputs, inputs]
    is_concatenated: bool = True  # gates, then ups; else they alternate
    has_post_norm: bool = False  # each expert's result goes through post_expert_norm
    takes_rows_sorted_by_expert: bool = (
        False  # one argument: as many rows for each expert, in the experts' order
    )

    @property
    def matrices(self) -> tuple[str, ...]:
        """The names of an expert's matrices in the order in which they are applied."""
        return (GATE, UP, DOWN) if self.has_gate else (UP, DOWN)

    def fused_name(self, matrix_name: str) -> str:
        """Return the name of the fused parameter that holds this matrix of all experts."""
        return "gate_up_proj" if self.has_gate and matrix_name != DOWN else matrix_name


# families whose class says nothing of its form, by the name of the class
UNSAID: Mapping[str, ExpertFormat] = {
    "Llama4TextExperts": ExpertFormat(is_transposed=True, takes_rows_sorted_by_expert=True)
}


def detect_expert_format(module: nn.Module) -> ExpertFormat | None:
    """Detect the layout of a module's fused experts. Returns None for modules without separable experts."""
    form = UNSAID.get(type(module).__name__)
    if form is None:
        if not hasattr(module, "is_concatenated") or not hasattr(module, "is_transposed"):
            return None
        said = ("has_gate", "has_bias", "is_transposed", "is_concatenated", "has_post_expert_norm")
        form = ExpertFormat(*(bool(getattr(module, name)) for name in said))
    fused = (module._parameters.get(form.fused_name(matrix)) for matrix in form.matrices)
    return form if all(weight is not None and weight.dim() == 3 for weight in fused) else None


def select_expert_matrix(
    expert_format: ExpertFormat, matrix_name: str, expert_slice: torch.Tensor
) -> torch.Tensor:
    """Return a view of one matrix, [outputs, inputs], in an expert's slice of a fused parameter.

    A bias is selected in the same way, from its one dimension.
    """
    if expert_format.is_transposed and expert_slice.dim() == 2:
        expert_slice = expert_slice.T
    if not expert_format.has_gate or matrix_name == DOWN:
        return expert_slice
    half = len(expert_slice) // 2
    if expert_format.is_concatenated:
        return expert_slice[:half] if matrix_name == GATE else expert_slice[half:]
    return expert_slice[0::2] if matrix_name == GATE else expert_slice[1::2]


def join_gate_and_up(expert_format: ExpertFormat, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    if expert_format.is_concatenated:
        return torch.cat((gate, up), dim=-1)
    return torch.stack((gate, up), dim=-1).flatten(-2)
