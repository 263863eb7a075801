"""Helpers for replacing the quantized layers of other libraries by C kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from runner_base.notes import Note, note
from runner_engine.kernels.native import FORMATS, Kernels
from runner_engine.matmul import huge_pages
from runner_engine.matmul.layer_replacement import Forward, KernelResources, UnsupportedLayer
from runner_engine.matmul.layer_weights import QuantizedWeights, find_output_deviation, multiply_with_kernel

TRIAL_ROWS = (43, 3)  # several tiles with a remainder; and so few that nothing is unpacked
TOLERANCE = 1e-2  # of the largest output: the last place of bfloat16 is 0.4 % of a number
PANEL = 32  # outputs; 4-bit weights must be whole panels


def require_kernels_for_layer(layer: nn.Linear, resources: KernelResources) -> Kernels:
    resources.heap.release_freed_memory_if_grown()
    if resources.kernels is None:
        raise UnsupportedLayer(note("needs_compiler"))
    if layer.training or layer.weight.device.type != "cpu" or resources.dtype not in FORMATS:
        raise UnsupportedLayer(note("trained_elsewhere_or_other_format"))
    return resources.kernels


def run_first_forward(layer: nn.Linear, resources: KernelResources) -> None:
    """Run a layer's forward once.

    Some libraries rearrange the weights in the first forward.
    """
    with torch.no_grad():
        layer(torch.ones(1, layer.in_features, dtype=resources.dtype))


def build_kernel_forward(
    layer: Any,
    weights: QuantizedWeights,
    resources: KernelResources,
    are_weights_unchanged: Callable[[], bool],
) -> Forward:
    """Build a forward function that multiplies with the C kernels.

    For other dtypes or changed weights it calls the layer's own forward. A library may convert
    a bias in place for activations of another dtype.
    """
    own, kernels, bias_at = layer.forward, resources.kernels, weights.matrix.bias
    workspace = resources.workspace
    assert kernels is not None

    def forward(activations: torch.Tensor) -> torch.Tensor:
        bias = layer.bias
        has_bias = bias is None if bias_at is None else bias is not None and bias.data_ptr() == bias_at
        if (
            activations.dtype not in weights.formats
            or not activations.numel()
            or not has_bias
            or not are_weights_unchanged()
        ):
            return own(activations)  # type: ignore[no-any-return]
        return multiply_with_kernel(kernels, activations, weights, workspace.get_buffer(activations))

    return forward


def require_layer_matches_reference(
    layer: nn.Linear, forward: Forward, reference: Forward, resources: KernelResources
) -> None:
    """Compare a layer's outputs with a reference.

    Raises UnsupportedLayer if they differ by more than rounding errors.
    """
    kind = type(layer), layer.in_features, layer.out_features, layer.bias is None
    if kind not in resources.trials:
        resources.trials[kind] = _compare_forwards(reference, forward, layer.in_features, resources.dtype)
    if problem := resources.trials[kind]:
        raise UnsupportedLayer(problem)


def move_unmapped_weight_to_huge_pages(weight: torch.Tensor, resources: KernelResources) -> torch.Tensor:
    """Move weights to huge pages, unless they are in a memory-mapped checkpoint."""
    if not resources.mapped_files.is_mapped_address(weight.data_ptr()):
        huge_pages.move_to_huge_pages(weight)
    return weight


def list_supported_dtypes(bias: torch.Tensor | None) -> tuple[torch.dtype, ...]:
    return tuple(dtype for dtype in FORMATS if is_bias_absent_or_dtype(bias, dtype))


def is_bias_absent_or_dtype(bias: torch.Tensor | None, dtype: torch.dtype) -> bool:
    return bias is None or bias.dtype is dtype


def _compare_forwards(reference: Forward, forward: Forward, inputs: int, dtype: torch.dtype) -> Note | None:
    for count in TRIAL_ROWS:
        rows = torch.randn(
            count, inputs, generator=torch.Generator().manual_seed(count), dtype=torch.float32
        ).to(dtype)
        rows[:, ::50] *= 9
        with torch.no_grad():
            if problem := find_output_deviation(forward(rows), reference(rows), TOLERANCE):
                return problem
    return None
