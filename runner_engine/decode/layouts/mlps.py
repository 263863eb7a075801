"""The layout of an MLP: its matrices by their names, and its function by a trial."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from runner_engine.decode.layouts.functions import activation_between, activation_of
from runner_engine.decode.layouts.parts import (
    FUNCTIONS,
    OF_MLP,
    SCALES_OF_MLP,
    NotFusable,
    projections_of,
    sizes_of,
)
from runner_engine.kernels.shared_numbers import Activation
from runner_engine.models.lora.beside import matrices_beside


@dataclass(frozen=True)
class MlpLayout:
    """An MLP: one matrix or two that come in, a function, one that goes out."""

    into: tuple[Any, ...]
    out: Any
    activation: Activation
    has_gate: bool  # half of what comes in goes through the function, and gates the other half
    gate_scale: float = 1.0  # what that half is multiplied by before the function
    scale: float = 1.0  # and what goes out

    @property
    def inner(self) -> int:
        """How many numbers of a token come out of its function."""
        return sizes_of(self.out)[1]

    @property
    def gates_in_product(self) -> bool:
        """Whether two matrices gate each other in the registers, as SiLU does without biases and
        adapters."""
        alone = all(part.bias is None and matrices_beside(part) is None for part in self.into)
        is_plain = alone and self.gate_scale == 1
        return self.activation is Activation.silu and self.has_gate and len(self.into) == 2 and is_plain

    @property
    def gates(self) -> int:
        """How many numbers of a token it computes before they go through its function; 0: in the
        registers."""
        return 0 if self.gates_in_product else self.inner * (1 + self.has_gate)


def mlp_of(mlp: Any, rows: Tensor) -> MlpLayout | None:
    """Return the layout of an MLP; None where C does not know its parts. rows: for a trial."""
    function = next((name for name in FUNCTIONS if isinstance(getattr(mlp, name, None), nn.Module)), None)
    try:
        names = projections_of(mlp, OF_MLP, {function} if function else set())
        into, out = tuple(getattr(mlp, name) for name in names.into), getattr(mlp, names.out)
        activation = (
            activation_of(getattr(mlp, function)) if function else activation_between(mlp, into, out, rows)
        )
    except NotFusable:
        return None
    outputs, inner = sum(sizes_of(layer)[0] for layer in into), sizes_of(out)[1]
    if outputs not in (inner, 2 * inner):
        return None
    scales = (float(getattr(mlp, name, 1.0)) for name in SCALES_OF_MLP)
    return MlpLayout(into, out, activation, outputs == 2 * inner, *scales)
