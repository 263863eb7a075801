"""Recurrent block of RecurrentGemma (Griffin): a convolution and a gated recurrence per channel
(RG-LRU).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from runner_engine.recurrent import compiled_layers
from runner_engine.recurrent.convolution import compute_conv_state_shape, convolve
from runner_engine.recurrent.mixer import Mixer, Segments, StateShape
from runner_engine.recurrent.scans import scan_elementwise_recurrence

POWER = 8.0  # of the decay where its gate is open


class RgLru(Mixer):
    """An RG-LRU block: a convolution and a gated recurrence whose state is one number per channel.

    The state also stores whether the sequence has started.
    """

    in_pair = True

    def __init__(self, module: Any) -> None:
        self.module = module
        weight = module.conv_1d.weight[:, 0]
        self.states = (
            compute_conv_state_shape(weight),
            StateShape((weight.shape[0],), torch.float32),
            StateShape((1,), torch.float32),  # a row's first token is not scaled
        )
        self.convolution = compiled_layers.CompiledConvolution.create_if_supported(
            weight, module.conv_1d.bias, False
        )
        self.recurrence = compiled_layers.CompiledRgLru.create_if_supported(weight, self.rate)

    @cached_property
    def rate(self) -> Tensor:
        """Factor [C] that converts each channel's decay gate to a log decay."""
        rate: Tensor = -POWER * functional.softplus(self.module.rg_lru.recurrent_param.detach().float())
        return rate

    def forward(self, hidden_states: Tensor, states: Sequence[Tensor], segments: Segments) -> Tensor:
        module = self.module
        gate = module.act_fn(module.linear_y(hidden_states))
        mixed = module.linear_x(hidden_states)
        if self.convolution is None or self.recurrence is None:
            mixed = convolve(mixed, module.conv_1d.weight[:, 0], module.conv_1d.bias, states[0], segments)
            gated = self._scan_with_torch(mixed, states, segments).to(hidden_states.dtype) * gate
        else:
            mixed = self.convolution(mixed, states[0], segments)
            gated = self.recurrence(
                mixed, *self._compute_gate_logits(mixed), gate, states[1], states[2], segments
            )
        result: Tensor = module.linear_out(gated)
        return result

    def _compute_gate_logits(self, convolved: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values of the input gates and decay gates before the sigmoid: [tokens, C] each."""
        unit = self.module.rg_lru
        blocks = convolved.view(-1, unit.num_attention_heads, unit.block_width).transpose(0, 1)
        of_inputs = torch.baddbmm(unit.input_gate_bias[:, None], blocks, unit.input_gate_weight)
        of_decay = torch.baddbmm(unit.recurrent_gate_bias[:, None], blocks, unit.recurrent_gate_weight)
        return of_inputs.transpose(0, 1).flatten(1), of_decay.transpose(0, 1).flatten(1)

    def _scan_with_torch(self, convolved: Tensor, states: Sequence[Tensor], segments: Segments) -> Tensor:
        input_gates, open_gates = (gates.float().sigmoid() for gates in self._compute_gate_logits(convolved))
        logarithm, is_first = self.rate * open_gates, self._mark_first_tokens(states[2], segments)
        scale = (1 - (2 * logarithm).exp()).sqrt().masked_fill(is_first[:, None], 1)
        return scan_elementwise_recurrence(
            convolved * input_gates * scale, logarithm.exp(), states[1], segments
        )

    @staticmethod
    def _mark_first_tokens(started_flags: Tensor, segments: Segments) -> Tensor:
        """Return a mask [tokens] of the tokens that begin their sequences.

        Also marks these sequences as started.
        """
        is_fresh = segments.read_states(started_flags)[:, 0] == 0
        result = torch.zeros(sum(segments.counts), dtype=torch.bool, device=started_flags.device)
        result[torch.tensor(segments.firsts, device=started_flags.device)] = is_fresh
        segments.write_states(started_flags, started_flags.new_ones((len(segments.slots), 1)))
        return result


def create_mixer(module: Any) -> Mixer:
    return RgLru(module)
