"""The recurrent block of RecurrentGemma (Griffin): a convolution and a gated recurrence of channels
(RG-LRU)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from runner_engine.recurrent import compiled
from runner_engine.recurrent.contract import Mixer, Segments, StateShape
from runner_engine.recurrent.convolution import convolve, state_of
from runner_engine.recurrent.scans import scan_elements

POWER = 8.0  # of the decay where its gate is open


class RealGatedUnit(Mixer):
    """A block whose state are the convolution's last inputs, a number for each channel, and whether
    the row began."""

    in_pair = True

    def __init__(self, module: Any) -> None:
        self.module = module
        weight = module.conv_1d.weight[:, 0]
        self.states = (
            state_of(weight),
            StateShape((weight.shape[0],), torch.float32),
            StateShape((1,), torch.float32),  # a row's first token is not scaled
        )
        self.convolution = compiled.Convolution.of(weight, module.conv_1d.bias, False)
        self.recurrence = compiled.Numbers.of(weight, self.rate)

    @cached_property
    def rate(self) -> Tensor:
        """What the gate of the decay is multiplied by for its logarithm, [C]."""
        rate: Tensor = -POWER * functional.softplus(self.module.rg_lru.recurrent_param.detach().float())
        return rate

    def forward(self, hidden: Tensor, states: Sequence[Tensor], segments: Segments) -> Tensor:
        """Project, convolve, scan, gate and project back."""
        module = self.module
        gate = module.act_fn(module.linear_y(hidden))
        mixed = module.linear_x(hidden)
        if self.convolution is None or self.recurrence is None:
            mixed = convolve(mixed, module.conv_1d.weight[:, 0], module.conv_1d.bias, states[0], segments)
            gated = self._scanned(mixed, states, segments).to(hidden.dtype) * gate
        else:
            mixed = self.convolution(mixed, states[0], segments)
            gated = self.recurrence(mixed, *self._gates(mixed), gate, states[1], states[2], segments)
        result: Tensor = module.linear_out(gated)
        return result

    def _gates(self, mixed: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gates of what is added and of the decay before their sigmoids, [tokens, C]."""
        unit = self.module.rg_lru
        blocks = mixed.view(-1, unit.num_attention_heads, unit.block_width).transpose(0, 1)
        of_inputs = torch.baddbmm(unit.input_gate_bias[:, None], blocks, unit.input_gate_weight)
        of_decay = torch.baddbmm(unit.recurrent_gate_bias[:, None], blocks, unit.recurrent_gate_weight)
        return of_inputs.transpose(0, 1).flatten(1), of_decay.transpose(0, 1).flatten(1)

    def _scanned(self, mixed: Tensor, states: Sequence[Tensor], segments: Segments) -> Tensor:
        """Scan by operations of torch."""
        input_gates, open_gates = (gates.float().sigmoid() for gates in self._gates(mixed))
        logarithm, is_first = self.rate * open_gates, self._is_first(states[2], segments)
        scale = (1 - (2 * logarithm).exp()).sqrt().masked_fill(is_first[:, None], 1)
        return scan_elements(mixed * input_gates * scale, logarithm.exp(), states[1], segments)

    @staticmethod
    def _is_first(started: Tensor, segments: Segments) -> Tensor:
        """Return which tokens are the first of their rows, [tokens], and note that the rows have
        begun."""
        is_fresh = segments.read(started)[:, 0] == 0
        result = torch.zeros(sum(segments.counts), dtype=torch.bool, device=started.device)
        result[torch.tensor(segments.firsts, device=started.device)] = is_fresh
        segments.write(started, started.new_ones((len(segments.slots), 1)))
        return result


def mixer_of(module: Any) -> Mixer:
    """Return the mixer of a block."""
    return RealGatedUnit(module)
