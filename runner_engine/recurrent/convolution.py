"""A causal convolution of each channel, as most layers with a state have before it: its state is
its last inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from runner_engine.recurrent.contract import Segments, StateShape


def state_of(weight: Tensor) -> StateShape:
    """Return what a convolution with such weights [C, K] keeps of a row: its last inputs, [K - 1,
    C]."""
    channels, width = weight.shape
    return StateShape((width - 1, channels), weight.dtype)


def convolve(
    inputs: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, segments: Segments
) -> Tensor:
    """Return the convolution [tokens, C] of each channel's inputs [tokens, C] with its weights [C,
    K].

    state: the K - 1 inputs before each segment, [slots, K - 1, C], the latest at the end;
    afterwards, those of the end.
    """
    kept = weight.shape[1] - 1
    before = segments.read(state).to(inputs.dtype)  # [segments, K - 1, C]
    if segments.are_alike:
        extended = torch.cat((before, segments.padded(inputs)), dim=1)
        segments.write(state, extended[:, segments.longest :])
        return _sums(extended, weight, bias).flatten(0, 1)
    numbers, counts = torch.arange(len(segments.counts)), torch.tensor(segments.counts)
    ends = (counts + kept).cumsum(0)  # of each segment, with what is before it
    places = (torch.arange(len(inputs)) + kept * (numbers + 1).repeat_interleave(counts)).to(inputs.device)
    of_states = torch.arange(kept)
    starts = ((ends - counts - kept)[:, None] + of_states).to(inputs.device)
    extended = inputs.new_empty((int(ends[-1]), inputs.shape[1]))
    extended[places], extended[starts] = inputs, before
    segments.write(state, extended[((ends - kept)[:, None] + of_states).to(inputs.device)])
    return _sums(extended, weight, bias)[places - kept]


def _sums(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the convolution of inputs [..., K - 1 + n, C], without those before the first: [...,
    n, C]."""
    count = inputs.shape[-2] - weight.shape[1] + 1
    total = inputs[..., :count, :] * weight[:, 0]
    for at in range(1, weight.shape[1]):
        total += inputs[..., at : at + count, :] * weight[:, at]
    return total if bias is None else total.add_(bias)
