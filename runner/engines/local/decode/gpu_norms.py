"""RMS norms on a GPU: torch's single kernel in place of the six operations that transformers writes.

A small model's step is a queue of short kernels, and these are a sixth of them. The layers stay the model's own: only
the `forward` of an instance is replaced, after a trial, and restored when the job ends.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

TOLERANCE = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 2e-2}  # of the largest number


class GpuNorms:
    """A model's norms whose `forward` is replaced, until `restore`."""

    def __init__(self, model: nn.Module) -> None:
        self.layers: list[nn.Module] = []
        for module in model.modules():
            if type(module).__name__.endswith("RMSNorm"):
                self._replace(module)

    def restore(self) -> None:
        """Give every norm its own `forward` back."""
        for layer in self.layers:
            del layer.forward
        self.layers = []

    def _replace(self, layer: Any) -> None:
        weight, epsilon = getattr(layer, "weight", None), getattr(layer, "variance_epsilon", None)
        if epsilon is None or weight is None or weight.dtype not in TOLERANCE or hasattr(layer, "_hf_hook"):
            return
        own, weight = layer.forward, weight.detach()

        def forward(rows: torch.Tensor) -> torch.Tensor:
            if rows.dtype != weight.dtype:
                other: torch.Tensor = own(rows)
                return other
            return nn.functional.rms_norm(rows, weight.shape, weight, epsilon)

        with torch.no_grad():
            trial = torch.randn(3, weight.numel(), generator=torch.Generator().manual_seed(0)).to(weight)
            expected = own(trial).float()
            off = (forward(trial).float() - expected).abs().max() / expected.abs().max().clamp(min=1e-9)
        if off <= TOLERANCE[weight.dtype]:  # some families' norms use their weight in another way
            layer.forward = forward
            self.layers.append(layer)
