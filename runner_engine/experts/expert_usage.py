"""Measures how unevenly a mixture uses its experts. Samples only some forward passes, to keep decoding fast.

A router that sends most tokens to a few experts slows a mixture down, and quantization may change
which it prefers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from runner_engine.checkpoints.experts import DOWN
from runner_engine.experts.expert_format import detect_expert_format
from runner_engine.experts.separate_experts import SeparateExperts

MANY = 32  # tokens: a pass of so many is counted, and takes far longer than counting
EVERY = 16  # other passes that are counted: one in so many
ENOUGH = 8  # times as many choices as there are experts, in each layer, before anything is said


@dataclass(eq=False)
class _CountedLayer:
    """The experts module of a layer, whose `forward` counts how often each expert is chosen."""

    module: nn.Module
    forward: Callable[..., torch.Tensor]
    was_own: bool  # whether this was the object's own, and not its class's
    counts: torch.Tensor
    passes: int = 0


class CExpertCounter(Protocol):
    """Protocol of forward passes in which C code counts how often each expert is chosen."""

    after_pass: Callable[[int], object]  # is told of a pass's tokens

    @property
    def expert_counts(self) -> Mapping[nn.Module, torch.Tensor]:
        """How often each expert was chosen, by the experts module of a layer."""


class ExpertUsageCounter:
    """Counts how often each expert of each layer is chosen. Works only on a CPU."""

    def __init__(
        self,
        model: nn.Module | None = None,
        report: Callable[[str], object] = str,
        c_counter: CExpertCounter | None = None,
    ) -> None:
        """Install the counters in the model. Without a model, nothing is counted.

        report: called with each new summary. c_counter: forward passes in which C code counts the
        choices.
        """
        self.tell = report
        of_c: Mapping[nn.Module, torch.Tensor] = {} if c_counter is None else c_counter.expert_counts
        self.layers = [
            layer
            for module in (model.modules() if model else ())
            if (layer := _build_expert_counting_layer(module, of_c))
        ]
        self._told = 0  # choices that were counted when it was told
        self._tokens, self._told_tokens = 0, 0  # of passes in which C counts
        if c_counter is not None and of_c:
            c_counter.after_pass = self.after_pass
        for layer in self.layers:
            layer.module.forward = self._build_counting_forward(layer)

    def remove_counters(self) -> None:
        for layer in self.layers:
            if layer.was_own:
                layer.module.forward = layer.forward
            else:
                del layer.module.forward
        self.layers = []

    def _build_counting_forward(self, layer: _CountedLayer) -> Callable[..., torch.Tensor]:
        forward = layer.forward

        def count_chosen_experts_then_forward(*given: Any, **named: Any) -> torch.Tensor:
            layer.passes += 1
            if len(given[0] if given else named["hidden_states"]) >= MANY or layer.passes % EVERY == 0:
                self._count_chosen_experts(
                    layer, named["top_k_index"] if "top_k_index" in named else given[1]
                )
            return forward(*given, **named)

        return count_chosen_experts_then_forward

    def after_pass(self, num_tokens: int) -> None:
        """Report expert usage each time the number of processed tokens has doubled."""
        self._tokens += num_tokens
        if self._tokens >= 2 * self._told_tokens:
            self._told_tokens = self._tokens
            if summary := self.summarize():
                self.tell(summary)

    def _count_chosen_experts(self, layer: _CountedLayer, expert_ids: torch.Tensor) -> None:
        """Add up how often each expert was chosen in a forward pass. expert_ids: [tokens, chosen].

        Expert ids beyond the number of experts mean no expert.
        """
        size = len(layer.counts)
        layer.counts += torch.bincount(expert_ids.reshape(-1), minlength=size)[:size]
        if layer is self.layers[-1]:
            counted = sum(int(one.counts.sum()) for one in self.layers)
            if counted > 2 * self._told and (summary := self.summarize()):
                self._told = counted
                self.tell(summary)

    def summarize(self) -> str:
        """Summarize how unevenly experts are used. Returns an empty string if too few choices were
        counted.
        """
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
        text = (
            f"the most used expert of a layer gets {typical:.1f} × the mean load (median), "
            f"{worst:.1f} × at most"
        )
        return f"{text} · {unused} never used" if unused else text


def _build_expert_counting_layer(
    module: nn.Module, c_counts: Mapping[nn.Module, torch.Tensor]
) -> _CountedLayer | None:
    form = module.form if isinstance(module, SeparateExperts) else detect_expert_format(module)
    if form is None or form.takes_rows_sorted_by_expert:
        return None
    if isinstance(module, SeparateExperts):
        experts = module.num_experts
    else:
        weight = module._parameters[DOWN]
        if weight is None or weight.device.type != "cpu":
            return None
        experts = len(weight)
    counts = c_counts[module].zero_() if module in c_counts else torch.zeros(experts, dtype=torch.int64)
    return _CountedLayer(module, module.forward, "forward" in vars(module), counts)
