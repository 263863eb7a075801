"""The short convolution of LFM2: a gated convolution of each channel, whose state is its last inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from runner_engine.recurrent.contract import Mixer, Segments
from runner_engine.recurrent.convolution import convolve, state_of


class ShortConvolution(Mixer):
    """A layer of LFM2."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.states = (state_of(module.conv.weight[:, 0]),)

    def forward(self, hidden: Tensor, states: Sequence[Tensor], segments: Segments) -> Tensor:
        """Gate the inputs, convolve them, and gate the result."""
        module = self.module
        before, after, inputs = module.in_proj(hidden).chunk(3, dim=-1)
        weight = module.conv.weight[:, 0]
        result: Tensor = module.out_proj(
            after * convolve(before * inputs, weight, module.conv.bias, states[0], segments)
        )
        return result


def mixer_of(module: Any) -> Mixer:
    """Return the mixer of a layer."""
    return ShortConvolution(module)
