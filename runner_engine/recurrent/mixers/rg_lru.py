"""The recurrent block of RecurrentGemma (Griffin): a convolution and a gated recurrence of channels (RG-LRU)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from runner_engine.recurrent.contract import Mixer, Segments, StateShape
from runner_engine.recurrent.convolution import convolve, state_of
from runner_engine.recurrent.scans import scan_elements

POWER = 8.0  # of the decay where its gate is open


class RealGatedUnit(Mixer):
    """A block whose state are the convolution's last inputs, a number for each channel, and whether the row began."""

    in_pair = True

    def __init__(self, module: Any) -> None:
        self.module = module
        weight = module.conv_1d.weight[:, 0]
        self.states = (
            state_of(weight),
            StateShape((weight.shape[0],), torch.float32),
            StateShape((1,), torch.float32),  # a row's first token is not scaled
        )

    def forward(self, hidden: Tensor, states: Sequence[Tensor], segments: Segments) -> Tensor:
        """Project, convolve, scan, gate and project back."""
        module = self.module
        gate = module.act_fn(module.linear_y(hidden))
        mixed = module.linear_x(hidden)
        mixed = convolve(mixed, module.conv_1d.weight[:, 0], module.conv_1d.bias, states[0], segments)
        decay, inputs = self._gates(mixed, self._is_first(states[2], segments))
        scanned = scan_elements(inputs, decay, states[1], segments)
        result: Tensor = module.linear_out(scanned.to(hidden.dtype) * gate)
        return result

    def _gates(self, mixed: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        """Return each token's decay and what it adds, [tokens, C]."""
        unit = self.module.rg_lru
        blocks = mixed.view(-1, unit.num_attention_heads, unit.block_width).transpose(0, 1)
        input_gate = torch.baddbmm(unit.input_gate_bias[:, None], blocks, unit.input_gate_weight).sigmoid()
        open_gate = torch.baddbmm(unit.recurrent_gate_bias[:, None], blocks, unit.recurrent_gate_weight).sigmoid()
        input_gate, open_gate = (numbers.transpose(0, 1).flatten(1) for numbers in (input_gate, open_gate))
        logarithm = -POWER * open_gate * functional.softplus(unit.recurrent_param)
        scale = (1 - (2 * logarithm).exp()).sqrt().masked_fill(is_first[:, None], 1)
        return logarithm.exp(), mixed * input_gate * scale

    @staticmethod
    def _is_first(started: Tensor, segments: Segments) -> Tensor:
        """Return which tokens are the first of their rows, [tokens], and note that the rows have begun."""
        is_fresh = segments.read(started)[:, 0] == 0
        result = torch.zeros(sum(segments.counts), dtype=torch.bool, device=started.device)
        result[torch.tensor(segments.firsts, device=started.device)] = is_fresh
        segments.write(started, started.new_ones((len(segments.slots), 1)))
        return result


def mixer_of(module: Any) -> Mixer:
    """Return the mixer of a block."""
    return RealGatedUnit(module)
