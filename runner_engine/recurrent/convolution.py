"""A causal convolution of each channel, as most layers with a state have before it: its state is its last inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from runner_engine.recurrent.contract import Segments, StateShape


def state_of(weight: Tensor) -> StateShape:
    """Return what a convolution with such weights [C, K] keeps of a row: its last inputs, [K - 1, C]."""
    channels, width = weight.shape
    return StateShape((width - 1, channels), weight.dtype)


def convolve(inputs: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, segments: Segments) -> Tensor:
    """Return the convolution [tokens, C] of each channel's inputs [tokens, C] with its weights [C, K].

    state: the K - 1 inputs before each segment, [slots, K - 1, C], the latest at the end; afterwards, those of the end.
    """
    width = weight.shape[1]
    before = segments.read(state).to(inputs.dtype)  # [segments, K - 1, C]
    extended = torch.cat((before, segments.padded(inputs)), dim=1)
    total = sum(extended[:, at : at + segments.longest] * weight[:, at] for at in range(width))
    assert isinstance(total, Tensor)
    if bias is not None:
        total = total + bias
    if segments.are_alike:
        last = extended[:, segments.longest :]
    else:
        places = segments.ends(inputs.device)[:, None] + torch.arange(width - 1, device=inputs.device)
        last = extended.gather(1, places[:, :, None].expand(-1, -1, extended.shape[2]))
    segments.write(state, last)
    return segments.flat(total)
