"""A linear layer of integers in groups whose rows are rounded to int8 before they are multiplied, as torchao does."""

from __future__ import annotations

import torch

from runner.models.grouped import GroupedLinear

LOWEST, HIGHEST = -128, 127


class RoundedRowsLinear(GroupedLinear):
    """Each row gets a scale and a zero point of its own, as it comes."""

    def prepared(self, rows: torch.Tensor) -> torch.Tensor:
        """Return rows as the numbers that their int8 stand for, in their own number format."""
        low, high = rows.amin(-1, keepdim=True).clamp(max=0), rows.amax(-1, keepdim=True).clamp(min=0)
        scale = ((high - low) / (HIGHEST - LOWEST)).clamp(min=torch.finfo(rows.dtype).smallest_normal)
        zero = (LOWEST - (low / scale).round_()).clamp_(LOWEST, HIGHEST)
        return (rows * (1 / scale)).round_().add_(zero).clamp_(LOWEST, HIGHEST).sub_(zero).mul_(scale)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Round the rows, and multiply them by weights that are unpacked some outputs at a time."""
        return super().forward(self.prepared(input))
