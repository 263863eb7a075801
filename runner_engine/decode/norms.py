"""Replaces RMS norms by one fused function each. In transformers an RMS norm takes six or more operations.

The layers stay the model's own: only the `forward` of an instance is replaced, after a
trial.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

FusedNormFunction = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]  # of rows, weight and epsilon
# of the largest number
GPU_TOLERANCE = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 2e-2}


class GpuNorms:
    """Replaces each RMS norm of a model by a single GPU kernel. `restore` undoes the replacement.

    Fewer kernel launches speed up small models.
    """

    def __init__(self, model: nn.Module) -> None:
        # a layer with a hook of accelerate's has a `forward` of its own already
        norms = [layer for layer in find_rms_norms(model) if not hasattr(layer, "_hf_hook")]
        self.layers = [
            layer
            for layer in norms
            if replace_norm_if_equivalent(layer, _compute_rms_norm_with_torch, GPU_TOLERANCE)
        ]

    def restore(self) -> None:
        for layer in self.layers:
            del layer.forward
        self.layers = []


def find_rms_norms(model: nn.Module) -> Iterator[Any]:
    return (module for module in model.modules() if type(module).__name__.endswith("RMSNorm"))


def replace_norm_if_equivalent(
    layer: Any,
    fused_norm: FusedNormFunction,
    tolerance_by_dtype: Mapping[torch.dtype, float],
    max_rounded_otherwise: float = 1.0,
) -> bool:
    """Replace a norm's `forward` by a fused function if a test run gives the same outputs.

    max_rounded_otherwise: the largest fraction of 16-bit outputs that may differ. A norm that rounds
    before it multiplies by the weight differs from others in about 40 % of its outputs.
    Returns whether it was replaced.
    """
    weight, epsilon = getattr(layer, "weight", None), getattr(layer, "variance_epsilon", None)
    if epsilon is None or weight is None or weight.dtype not in tolerance_by_dtype:
        return False
    own, weight = layer.forward, weight.detach().contiguous()

    def forward(activations: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = (
            fused_norm(activations, weight, epsilon)
            if activations.dtype == weight.dtype
            else own(activations)
        )
        return result

    with torch.no_grad():
        trial = torch.randn(
            3, weight.numel(), generator=torch.Generator().manual_seed(0), dtype=torch.float32
        ).to(weight)
        expected = own(trial).float()
        found = forward(trial).float()
        off = (found - expected).abs().max() / expected.abs().max().clamp(min=1e-9)
        differs = 0.0 if weight.dtype == torch.float32 else (found != expected).float().mean()
    # some families' norms use their weight in another way, or round once instead of twice
    if not (off <= tolerance_by_dtype[weight.dtype] and differs <= max_rounded_otherwise):
        return False
    layer.forward = forward
    return True


def _compute_rms_norm_with_torch(
    activations: torch.Tensor, weight: torch.Tensor, epsilon: float
) -> torch.Tensor:
    return nn.functional.rms_norm(activations, weight.shape, weight, epsilon)
