"""The short convolution of LFM2: a gated convolution of each channel, whose state is its last
inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from runner_engine.kernels.state_numbers import MixerKind
from runner_engine.recurrent.call_parts import CallParts
from runner_engine.recurrent.compiled import Convolution
from runner_engine.recurrent.contract import Mixer, Segments
from runner_engine.recurrent.convolution import convolve, state_of


class ShortConvolution(Mixer):
    """A layer of LFM2."""

    def __init__(self, module: Any) -> None:
        self.module = module
        weight = module.conv.weight[:, 0]
        self.states = (state_of(weight),)
        self.convolution = Convolution.of(weight, module.conv.bias, has_silu=False)

    @property
    def call_parts(self) -> CallParts | None:
        """The convolution between its two projections."""
        module, convolution = self.module, self.convolution
        if convolution is None:
            return None
        structures = {"conv": convolution.layer.address}
        into, out = (module.in_proj,), module.out_proj
        return CallParts(MixerKind.convolution_mixer, into, out, structures, kept=(convolution,))

    def forward(self, hidden: Tensor, states: Sequence[Tensor], segments: Segments) -> Tensor:
        """Gate the inputs, convolve them, and gate the result."""
        module = self.module
        before, after, inputs = module.in_proj(hidden).chunk(3, dim=-1)
        inputs = before * inputs
        if self.convolution is not None:
            convolved = self.convolution(inputs, states[0], segments)
        else:
            convolved = convolve(inputs, module.conv.weight[:, 0], module.conv.bias, states[0], segments)
        result: Tensor = module.out_proj(after * convolved)
        return result


def mixer_of(module: Any) -> Mixer:
    """Return the mixer of a layer."""
    return ShortConvolution(module)
