"""Identifies the kind of norm that a module computes, by a test run.

Model families differ in rounding and in whether 1 is added to the weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from runner_engine.decode.layouts.parts import NotFusable
from runner_engine.kernels.c_interface import NormKind

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}  # of the largest number
NEARLY = 1.5  # times the least error is as near: the first such choice is taken
EPSILONS = ("variance_epsilon", "eps", "epsilon", "norm_eps")
USUAL = [1e-5, 1e-6]  # epsilons of those that have none as an attribute


@dataclass(frozen=True)
class NormLayout:
    """Kind, weight, bias and epsilon of a norm, in the form that the C kernels expect."""

    kind: NormKind
    weight: torch.Tensor
    bias: torch.Tensor | None
    epsilon: float


def infer_norm_layout(module: Any, width: int, example_input: torch.Tensor) -> NormLayout:
    """Identify the kind of norm that a module computes.

    example_input: a tensor with the dtype and device of the inputs.
    """
    epsilons = [float(getattr(module, name)) for name in EPSILONS if hasattr(module, name)][:1] or USUAL
    rows = torch.randn(3, width, generator=torch.Generator().manual_seed(0), dtype=torch.float32).to(
        example_input
    )
    rows[0] *= 0.05  # so that a wrong epsilon or mean shows
    rows[2] += 0.5
    expected = module(rows).float()
    scale = expected.abs().max().clamp(min=1e-9)
    choices = [
        choice
        for epsilon in epsilons
        for choice in _list_candidate_norms(module, width, example_input, epsilon)
    ]
    off = [float(((_compute_norm(choice, rows) - expected).abs().max() / scale).item()) for choice in choices]
    least = min(off)
    if not least <= TOLERANCE.get(example_input.dtype, 0):
        raise NotFusable(f"the C kernels do not support the norm {type(module).__name__}")
    return next(choice for choice, error in zip(choices, off, strict=True) if error <= NEARLY * least + 1e-7)


def _list_candidate_norms(
    module: Any, width: int, example_input: torch.Tensor, epsilon: float
) -> list[NormLayout]:
    """Return the norms that a module may compute, with the most common norm first."""
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    bias = None if bias is None else bias.detach().float().contiguous()
    if weight is None:
        wide = torch.ones(width, dtype=torch.float32)
        return [NormLayout(kind, wide, bias, epsilon) for kind in (NormKind.rms_at_once, NormKind.layer_norm)]
    if weight.numel() != width:
        raise NotFusable(
            f"{type(module).__name__} has {weight.numel()} weights for activations of width {width}"
        )
    weight = weight.detach().reshape(-1).contiguous()
    own, more = weight.float(), 1 + weight.float()
    in_steps = (
        [NormLayout(NormKind.rms_in_steps, weight, None, epsilon)]
        if weight.dtype == example_input.dtype
        else []
    )
    return in_steps + [
        NormLayout(kind, numbers, bias, epsilon)
        for kind in (NormKind.rms_at_once, NormKind.layer_norm)
        for numbers in (own, more)
    ]


def _compute_norm(norm: NormLayout, activations: torch.Tensor) -> torch.Tensor:
    """Compute a norm in torch as the C kernel does, except for the order of the sums."""
    wide = activations.float()
    if norm.kind is NormKind.layer_norm:
        wide = wide - wide.mean(-1, keepdim=True)
    scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + norm.epsilon)
    if norm.kind is NormKind.rms_in_steps:
        scaled = scaled.to(activations.dtype).float()
    result = scaled * norm.weight.float()
    return (result if norm.bias is None else result + norm.bias).to(activations.dtype).float()
