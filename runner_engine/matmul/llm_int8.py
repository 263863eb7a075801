"""LLM.int8() in steps of torch, whose sums are exact: what the kernels are tried beside.

The library's own sums are made by torch's product of bytes, which saturates where ONEDNN_MAX_CPU_ISA hides VNNI from
oneDNN: torch asks the processor itself whether it has VNNI.
"""

from __future__ import annotations

from typing import Any

import torch

from runner_engine.matmul.int8_dynamic import Forward, exact_sums

FACTOR = 6.200124e-05  # 1 / 127 / 127, and 1 / 127, as the library rounds them
OF_WEIGHT = 7.874015718698502e-3


def forward_of(layer: Any) -> Forward:
    """Return a layer's function by exact sums."""
    state, bias = layer.state, layer.bias

    def forward(rows: torch.Tensor) -> torch.Tensor:
        half, scale = rows.half().float(), state.SCB.float()
        outliers = half.abs() >= state.threshold if state.threshold else torch.zeros_like(half, dtype=torch.bool)
        apart = outliers.any(0)
        top = half.masked_fill(outliers, 0).abs().amax(1, keepdim=True)
        numbers = (half * (1.0 / top * 127.0)).nan_to_num(0, 0, 0).round().masked_fill(apart, 0)
        result = exact_sums(numbers, state.CB).float() * (top * scale) * FACTOR
        if bias is not None:
            result = result + bias.float()
        if apart.any():
            weight = (state.CB[:, apart].float() * scale[:, None] * OF_WEIGHT).to(rows.dtype)
            result = result.to(rows.dtype).float() + rows[:, apart].float() @ weight.float().T
        return result.to(rows.dtype)  # type: ignore[no-any-return]

    return forward
