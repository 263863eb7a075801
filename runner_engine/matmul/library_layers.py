"""What modules for layers of a library have in common: the first pass, the trial beside its own
function, its bias."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from runner_base.notes import Note, note
from runner_engine.kernels.native import FORMATS, Kernels
from runner_engine.matmul import huge_pages
from runner_engine.matmul.matrices import QuantizedWeights, difference, multiply
from runner_engine.matmul.replacing import Forward, Means, UnsupportedLayer

TRIAL_ROWS = (43, 3)  # several tiles with a remainder; and so few that nothing is unpacked
TOLERANCE = 1e-2  # of the largest output: the last place of bfloat16 is 0.4 % of a number
PANEL = 32  # outputs; 4-bit weights must be whole panels


def kernels_for(layer: nn.Linear, means: Means) -> Kernels:
    """Return the kernels for a layer; UnsupportedLayer where there are none."""
    means.heap.trim_if_grown()
    if means.kernels is None:
        raise UnsupportedLayer(note("needs_compiler"))
    if layer.training or layer.weight.device.type != "cpu" or means.dtype not in FORMATS:
        raise UnsupportedLayer(note("trained_elsewhere_or_other_format"))
    return means.kernels


def let_rearrange(layer: nn.Linear, means: Means) -> None:
    """Let a library rearrange a layer's weights, which it does in their first pass."""
    with torch.no_grad():
        layer(torch.ones(1, layer.in_features, dtype=means.dtype))


def forward_by(
    layer: Any, weights: QuantizedWeights, means: Means, is_unchanged: Callable[[], bool]
) -> Forward:
    """Return a function by these weights: the layer's own for other rows, or once it holds other
    weights.

    A library may convert a bias in place for rows of another number format.
    """
    own, kernels, bias_at = layer.forward, means.kernels, weights.matrix.bias
    workspace = means.workspace
    assert kernels is not None

    def forward(rows: torch.Tensor) -> torch.Tensor:
        bias = layer.bias
        has_bias = bias is None if bias_at is None else bias is not None and bias.data_ptr() == bias_at
        if rows.dtype not in weights.formats or not rows.numel() or not has_bias or not is_unchanged():
            return own(rows)  # type: ignore[no-any-return]
        return multiply(kernels, rows, weights, workspace.of(rows))

    return forward


def check_trial(layer: nn.Linear, forward: Forward, reference: Forward, means: Means) -> None:
    """Try one layer of each kind beside its reference; UnsupportedLayer where more than rounding
    differs."""
    kind = type(layer), layer.in_features, layer.out_features, layer.bias is None
    if kind not in means.trials:
        means.trials[kind] = _difference(reference, forward, layer.in_features, means.dtype)
    if problem := means.trials[kind]:
        raise UnsupportedLayer(problem)


def in_large_pages(weight: torch.Tensor, means: Means) -> torch.Tensor:
    """Move weights that each token reads whole to large pages, unless they are in a checkpoint's
    mapped file."""
    if not means.mapped.has(weight.data_ptr()):
        huge_pages.move(weight)
    return weight


def formats_of(bias: torch.Tensor | None) -> tuple[torch.dtype, ...]:
    """Return the number formats of rows that a bias can be added to."""
    return tuple(dtype for dtype in FORMATS if is_of(bias, dtype))


def is_of(bias: torch.Tensor | None, dtype: torch.dtype) -> bool:
    """Whether there is no bias, or one of this number format."""
    return bias is None or bias.dtype is dtype


def _difference(reference: Forward, forward: Forward, inputs: int, dtype: torch.dtype) -> Note | None:
    """Return by how much the outputs for rows with outliers would differ; None if that is only
    rounding."""
    for count in TRIAL_ROWS:
        rows = torch.randn(
            count, inputs, generator=torch.Generator().manual_seed(count), dtype=torch.float32
        ).to(dtype)
        rows[:, ::50] *= 9
        with torch.no_grad():
            if problem := difference(forward(rows), reference(rows), TOLERANCE):
                return problem
    return None
