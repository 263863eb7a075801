"""Whether a mixture's logits are among those that the model itself gives where its last bits are
others.

Where two experts have nearly the same score, a last bit decides which of them a token goes through,
and in a model with few experts the logits are then as far off as with a wrong mask. So a trial in a
rounded number format must not take one of the two for the only right one. Each part of the model
gets other last bits, as another order of sums would give it, and each place's logits must be near
those that it has in some of these passes. What is wrong, such as an expert that has another one's
weights, is near none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from runner_engine.experts import SeparateExperts, form_of

# of a part's numbers in a pass: so many that a near choice becomes another, or so few that what
# follows stays the same
SHARES = (1.0, 1 / 8, 1 / 64)
PASSES = (0.0, *SHARES * 8)


def wavers_to(
    model: nn.Module, found: Iterable[torch.Tensor], own: Callable[[], torch.Tensor], allowed: float
) -> bool:
    """Whether each place's logits are as near as allowed to some that a mixture gives with other
    last bits.

    found, own: what is tried, and what the model gives: [places, vocabulary]; allowed: a share of
    the logits' spread.
    """
    if not any(
        isinstance(module, SeparateExperts) or form_of(module) is not None for module in model.modules()
    ):
        return False
    left = dict(enumerate(found))
    for seed, share in enumerate(PASSES):
        with other_last_bits(model, share, seed):
            expected = own()
        left = {
            place: logits
            for place, logits in left.items()
            if not distance(logits, expected[place]) <= allowed
        }
        if not left:
            return True
    return False


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return how far logits are off on average, as a share of their spread."""
    spread = expected.float().std().clamp(min=1e-6)
    return float((found.float() - expected.float()).abs().mean() / spread)


def worst_distance(
    ours: torch.Tensor, expected: torch.Tensor, of_tokens: Callable[..., torch.Tensor] = torch.mean
) -> float:
    """Return how far the logits of one place are off at most, as a share of their spread.

    One place after another: of a large vocabulary, all of them in float32 would take more memory
    than a job does.
    """
    each = (
        of_tokens((one.float() - other.float()).abs(), -1) / other.float().std().clamp(min=1e-6)
        for one, other in zip(ours, expected, strict=True)
    )
    return float(torch.stack(list(each)).max())  # no number, if one of them is none


@contextmanager
def other_last_bits(model: nn.Module, share: float, seed: int) -> Iterator[None]:
    """Move a share of what each part of a model gives up or down by at most a last bit, at
    random."""
    generator = torch.Generator().manual_seed(seed)

    def move(_: nn.Module, __: Any, made: Any) -> torch.Tensor | None:
        if not isinstance(made, torch.Tensor) or not made.is_floating_point():
            return None  # what a router chooses follows from its rows
        up = torch.rand(made.shape, generator=generator, dtype=torch.float32) - 0.5
        by = up.where(torch.rand(made.shape, generator=generator, dtype=torch.float32) < share, 0).to(
            made.device
        )
        return (made.float() * (1 + by * torch.finfo(made.dtype).eps)).to(made.dtype)

    with ExitStack() as hooks:
        for module in model.modules():
            if next(module.children(), None) is None:
                hooks.enter_context(module.register_forward_hook(move))
        yield
