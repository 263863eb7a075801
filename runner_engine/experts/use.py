"""How unevenly a mixture uses its experts: counted beside the passes, in so few of them that it
takes no time.

A router that sends most tokens to a few experts makes a mixture slower, and quantization may change
whom it prefers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from runner_engine.checkpoints.experts import DOWN
from runner_engine.experts.form import form_of
from runner_engine.experts.separate import SeparateExperts

MANY = 32  # tokens: a pass of so many is counted, and takes far longer than counting
EVERY = 16  # other passes that are counted: one in so many
ENOUGH = 8  # times as many choices as there are experts, in each layer, before anything is said


@dataclass(eq=False)
class _Layer:
    """A layer's experts, whose `forward` is exchanged for one that counts."""

    module: nn.Module
    forward: Callable[..., torch.Tensor]
    was_own: bool  # whether this was the object's own, and not its class's
    counts: torch.Tensor
    passes: int = 0


class CountsInC(Protocol):
    """Passes in which C counts how often each expert is chosen."""

    after_pass: Callable[[int], object]  # is told of a pass's tokens

    @property
    def expert_counts(self) -> Mapping[nn.Module, torch.Tensor]:
        """The counts, by the module of a layer's experts."""


class ExpertUse:
    """Counts how often each expert of each layer is chosen, on a CPU."""

    def __init__(
        self,
        model: nn.Module | None = None,
        tell: Callable[[str], object] = str,
        in_c: CountsInC | None = None,
    ) -> None:
        """Let each layer of experts count, and tell what is found. Without a model there is nothing
        to count.

        in_c: passes in which C counts for itself.
        """
        self.tell = tell
        of_c: Mapping[nn.Module, torch.Tensor] = {} if in_c is None else in_c.expert_counts
        self.layers = [
            layer for module in (model.modules() if model else ()) if (layer := _layer_of(module, of_c))
        ]
        self._told = 0  # choices that were counted when it was told
        self._tokens, self._told_tokens = 0, 0  # of passes in which C counts
        if in_c is not None and of_c:
            in_c.after_pass = self.after_pass
        for layer in self.layers:
            layer.module.forward = self._counting(layer)

    def restore(self) -> None:
        """Let layers go without counting again."""
        for layer in self.layers:
            if layer.was_own:
                layer.module.forward = layer.forward
            else:
                del layer.module.forward
        self.layers = []

    def _counting(self, layer: _Layer) -> Callable[..., torch.Tensor]:
        forward = layer.forward

        def count_and_forward(*given: Any, **named: Any) -> torch.Tensor:
            layer.passes += 1
            if len(given[0] if given else named["hidden_states"]) >= MANY or layer.passes % EVERY == 0:
                self._count(layer, named["top_k_index"] if "top_k_index" in named else given[1])
            return forward(*given, **named)

        return count_and_forward

    def after_pass(self, tokens: int) -> None:
        """Tell what C has counted whenever there are twice as many tokens as when it was told."""
        self._tokens += tokens
        if self._tokens >= 2 * self._told_tokens:
            self._told_tokens = self._tokens
            if summary := self.summary():
                self.tell(summary)

    def _count(self, layer: _Layer, chosen: torch.Tensor) -> None:
        """Count the experts that a pass's tokens have chosen [tokens, chosen]; a number too large
        stands for none."""
        size = len(layer.counts)
        layer.counts += torch.bincount(chosen.reshape(-1), minlength=size)[:size]
        if layer is self.layers[-1]:
            counted = sum(int(one.counts.sum()) for one in self.layers)
            if counted > 2 * self._told and (summary := self.summary()):
                self._told = counted
                self.tell(summary)

    def summary(self) -> str:
        """Say how much more than an even share the most used expert of a layer gets; empty if too
        few were counted."""
        shares = []
        for layer in self.layers:
            total, experts = int(layer.counts.sum()), len(layer.counts)
            if total < ENOUGH * experts:
                return ""
            shares.append(float(layer.counts.max()) * experts / total)
        if not shares:
            return ""
        typical, worst = sorted(shares)[len(shares) // 2], max(shares)
        unused = sum(int((layer.counts == 0).sum()) for layer in self.layers)
        text = f"a layer's most used expert {typical:.1f} times its even share, {worst:.1f} in the most uneven layer"
        return f"{text} · {unused} never used" if unused else text


def _layer_of(module: nn.Module, in_c: Mapping[nn.Module, torch.Tensor]) -> _Layer | None:
    """Return a layer of experts that is on a CPU and is told which of them each token has
    chosen."""
    form = module.form if isinstance(module, SeparateExperts) else form_of(module)
    if form is None or form.takes_sorted_rows:
        return None
    if isinstance(module, SeparateExperts):
        experts = module.num_experts
    else:
        weight = module._parameters[DOWN]
        if weight is None or weight.device.type != "cpu":
            return None
        experts = len(weight)
    counts = in_c[module].zero_() if module in in_c else torch.zeros(experts, dtype=torch.int64)
    return _Layer(module, module.forward, "forward" in vars(module), counts)
