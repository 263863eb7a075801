"""Describes an MLP: weight matrices found by module name, and the activation found by a test run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from runner_engine.decode.layouts.activations import identify_activation, infer_activation
from runner_engine.decode.layouts.parts import (
    FUNCTIONS,
    OF_MLP,
    SCALES_OF_MLP,
    NotFusable,
    ProjectionNames,
    computing_child_names,
    get_linear_sizes,
    match_known_projection_names,
)
from runner_engine.kernels.c_interface import Activation
from runner_engine.models.lora.unmerged import find_unmerged_lora


@dataclass(frozen=True)
class MlpLayout:
    """An MLP: one or two input matrices, an activation, and an output matrix."""

    into: tuple[Any, ...]
    out: Any
    activation: Activation
    has_gate: bool  # half of what comes in goes through the function, and gates the other half
    gate_scale: float = 1.0  # what that half is multiplied by before the function
    scale: float = 1.0  # and what goes out
    # only gates above their mean and so many standard deviations go through the function; None: all do
    cutoff: float | None = None

    @property
    def inner(self) -> int:
        """Number of hidden features in the MLP after the activation."""
        return get_linear_sizes(self.out)[1]

    @property
    def has_fused_gating(self) -> bool:
        """Whether the C kernels apply SiLU gating inside the matmul.

        The MLP must have no biases and no unmerged adapters.
        """
        alone = all(part.bias is None and find_unmerged_lora(part) is None for part in self.into)
        is_plain = alone and self.gate_scale == 1 and self.cutoff is None
        return self.activation is Activation.silu and self.has_gate and len(self.into) == 2 and is_plain

    @property
    def gates(self) -> int:
        return 0 if self.has_fused_gating else self.inner * (1 + self.has_gate)


class InlineMlp(nn.Module):
    """MLP whose linear layers and activation are submodules of the decoder layer itself (OPT)."""

    def __init__(self, layer: nn.Module, names: ProjectionNames, activation_name: str) -> None:
        super().__init__()
        self.add_module(names.into[0], getattr(layer, names.into[0]))
        self.add_module(names.out, getattr(layer, names.out))
        self.act_fn = getattr(layer, activation_name)
        self._layers = self.get_submodule(names.into[0]), self.get_submodule(names.out)

    @classmethod
    def find(cls, layer: nn.Module) -> InlineMlp | None:
        """Collect a decoder layer's own MLP submodules. Returns None if the layer has none."""
        function = next((name for name in FUNCTIONS if isinstance(getattr(layer, name, None), nn.Module)), "")
        children = computing_child_names(layer)
        names = next(
            (names for names in OF_MLP if names.all_names <= children and len(names.into) == 1), None
        )
        return cls(layer, names, function) if names and function else None

    def forward(self, hidden_states: Tensor) -> Tensor:
        into, out = self._layers
        result: Tensor = out(self.act_fn(into(hidden_states)))
        return result


def infer_mlp_layout(mlp: Any, hidden_states: Tensor) -> MlpLayout | None:
    """Describe an MLP, or return None if the C kernels do not support its submodules."""
    function = next((name for name in FUNCTIONS if isinstance(getattr(mlp, name, None), nn.Module)), None)
    try:
        names = match_known_projection_names(mlp, OF_MLP, {function} if function else set())
        into, out = tuple(getattr(mlp, name) for name in names.into), getattr(mlp, names.out)
        activation = (
            identify_activation(getattr(mlp, function))
            if function
            else infer_activation(mlp, into, out, hidden_states)
        )
    except NotFusable:
        return None
    outputs, inner = sum(get_linear_sizes(layer)[0] for layer in into), get_linear_sizes(out)[1]
    if outputs not in (inner, 2 * inner):
        return None
    gate_scale, scale = (float(getattr(mlp, name, 1.0)) for name in SCALES_OF_MLP)
    cutoff = _compute_gate_sparsity_cutoff(mlp, hidden_states.dtype)
    return MlpLayout(into, out, activation, outputs == 2 * inner, gate_scale, scale, cutoff)


def _compute_gate_sparsity_cutoff(mlp: Any, dtype: torch.dtype) -> float | None:
    """Return how many standard deviations above their mean gates must be (Gemma 3n), or None.

    activation_sparsity: the share of gates that become 0 if gates are normally distributed.
    """
    sparsity = float(getattr(mlp, "activation_sparsity", 0.0))
    if sparsity <= 0:
        return None
    quantile = torch.erfinv(2 * torch.tensor(sparsity, dtype=torch.float32) - 1) * math.sqrt(2)
    return float(quantile.to(dtype))
