"""Tests whether the logits of a mixture-of-experts model differ only by rounding noise.

Where two experts have nearly the same score, a last bit decides which expert a token
uses. In a model with few experts the logits then differ as much as with a wrong mask. So
a trial in a rounded number format must accept both choices. Each layer's output gets
other last bits, as another order of summation would give, and the logits of each position
must be near those of some of these passes. Real faults, such as an expert with another
expert's weights, are near none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from runner_engine.experts import SeparateExperts, detect_expert_format, is_expert_block

# of a part's numbers in a pass: so many that a near choice becomes another, or so few that what
# follows stays the same
SHARES = (1.0, 1 / 8, 1 / 64)
PASSES = (0.0, *SHARES * 8)


def is_within_rounding_noise(
    model: nn.Module,
    tested_logits: Iterable[torch.Tensor],
    compute_logits: Callable[[], torch.Tensor],
    tolerance: float,
) -> bool:
    """Whether the tested logits differ from the model's logits only by rounding noise.

    At each position, the tested logits must match a forward pass with perturbed activations.

    A perturbed pass changes last bits of activations.

    tested_logits and the result of compute_logits are [positions, vocabulary]. tolerance: a
    share of the logits' standard deviation. False for models without experts.
    """
    if not any(map(_has_experts, model.modules())):
        return False
    left = dict(enumerate(tested_logits))
    for seed, share in enumerate(PASSES):
        with perturb_layer_outputs(model, share, seed):
            expected = compute_logits()
        left = {
            place: logits
            for place, logits in left.items()
            if not compute_mean_logit_error(logits, expected[place]) <= tolerance
        }
        if not left:
            return True
    return False


def _has_experts(module: nn.Module) -> bool:
    is_known = isinstance(module, SeparateExperts) or is_expert_block(module)
    return is_known or detect_expert_format(module) is not None


def compute_mean_logit_error(logits: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the mean absolute logit error, relative to the standard deviation of the expected logits."""
    spread = expected.float().std().clamp(min=1e-6)
    return float((logits.float() - expected.float()).abs().mean() / spread)


def compute_max_logit_error(
    logits: torch.Tensor, expected: torch.Tensor, reduction: Callable[..., torch.Tensor] = torch.mean
) -> float:
    """Return the largest logit error at any position, relative to the position's standard deviation.

    Positions are compared one by one, because float32 copies of all logits of a large
    vocabulary would take more memory than a job.
    """
    each = (
        reduction((one.float() - other.float()).abs(), -1) / other.float().std().clamp(min=1e-6)
        for one, other in zip(logits, expected, strict=True)
    )
    return float(torch.stack(list(each)).max())  # no number, if one of them is none


@contextmanager
def perturb_layer_outputs(model: nn.Module, fraction: float, seed: int) -> Iterator[None]:
    """Context manager that changes random elements of layer outputs by at most their last bit."""
    generator = torch.Generator().manual_seed(seed)

    def perturb_output(_module: nn.Module, __: Any, output: Any) -> torch.Tensor | None:
        if not isinstance(output, torch.Tensor) or not output.is_floating_point():
            return None  # what a router chooses follows from its rows
        up = torch.rand(output.shape, generator=generator, dtype=torch.float32) - 0.5
        by = up.where(torch.rand(output.shape, generator=generator, dtype=torch.float32) < fraction, 0).to(
            output.device
        )
        return (output.float() * (1 + by * torch.finfo(output.dtype).eps)).to(output.dtype)

    with ExitStack() as hooks:
        for module in model.modules():
            if next(module.children(), None) is None:
                hooks.enter_context(module.register_forward_hook(perturb_output))
        yield
