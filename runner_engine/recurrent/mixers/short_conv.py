"""LFM2's short convolution layer: a gated convolution per channel.

The state holds the last inputs of the convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from runner_engine.kernels.state_structures import MixerKind
from runner_engine.recurrent.compiled_layers import CompiledConvolution
from runner_engine.recurrent.convolution import compute_conv_state_shape, convolve
from runner_engine.recurrent.mixer import Mixer, Segments
from runner_engine.recurrent.mixer_parts import MixerParts


class ShortConvolution(Mixer):
    """LFM2's short convolution layer."""

    def __init__(self, module: Any) -> None:
        self.module = module
        weight = module.conv.weight[:, 0]
        self.states = (compute_conv_state_shape(weight),)
        self.convolution = CompiledConvolution.create_if_supported(weight, module.conv.bias, has_silu=False)

    @property
    def mixer_parts(self) -> MixerParts | None:
        module, convolution = self.module, self.convolution
        if convolution is None:
            return None
        structures = {"conv": convolution.layer.address}
        into, out = (module.in_proj,), module.out_proj
        return MixerParts(MixerKind.convolution_mixer, into, out, structures, kept=(convolution,))

    def forward(self, hidden_states: Tensor, states: Sequence[Tensor], segments: Segments) -> Tensor:
        """Multiply the inputs by a gate, convolve each channel, and multiply the result by a second gate."""
        module = self.module
        before, after, inputs = module.in_proj(hidden_states).chunk(3, dim=-1)
        inputs = before * inputs
        if self.convolution is not None:
            convolved = self.convolution(inputs, states[0], segments)
        else:
            convolved = convolve(inputs, module.conv.weight[:, 0], module.conv.bias, states[0], segments)
        result: Tensor = module.out_proj(after * convolved)
        return result


def create_mixer(module: Any) -> Mixer:
    return ShortConvolution(module)
