"""Causal convolution of each channel, which most recurrent layers use.

The state holds the last inputs of the convolution.
"""

from __future__ import annotations

import torch
from torch import Tensor

from runner_engine.recurrent.mixer import Segments, StateShape


def compute_conv_state_shape(weight: Tensor) -> StateShape:
    """Return the shape [K - 1, C] of the convolution state, which stores the last K - 1 inputs."""
    channels, width = weight.shape
    return StateShape((width - 1, channels), weight.dtype)


def convolve(
    inputs: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, segments: Segments
) -> Tensor:
    """Convolve each channel of inputs [tokens, C] causally with weights [C, K], and update the state.

    state: the K - 1 inputs before each segment, [slots, K - 1, C], the latest at the end. It
    is updated to the last inputs of the segment.
    """
    kept = weight.shape[1] - 1
    before = segments.read_states(state).to(inputs.dtype)  # [segments, K - 1, C]
    if segments.has_equal_counts:
        extended = torch.cat((before, segments.pad_to_longest_segment(inputs)), dim=1)
        segments.write_states(state, extended[:, segments.max_count :])
        return _convolve_without_padding(extended, weight, bias).flatten(0, 1)
    numbers, counts = torch.arange(len(segments.counts)), torch.tensor(segments.counts)
    ends = (counts + kept).cumsum(0)  # of each segment, with what is before it
    places = (torch.arange(len(inputs)) + kept * (numbers + 1).repeat_interleave(counts)).to(inputs.device)
    of_states = torch.arange(kept)
    starts = ((ends - counts - kept)[:, None] + of_states).to(inputs.device)
    extended = inputs.new_empty((int(ends[-1]), inputs.shape[1]))
    extended[places], extended[starts] = inputs, before
    segments.write_states(state, extended[((ends - kept)[:, None] + of_states).to(inputs.device)])
    return _convolve_without_padding(extended, weight, bias)[places - kept]


def _convolve_without_padding(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve inputs [..., K - 1 + n, C] and return only the last n positions: [..., n, C]."""
    count = inputs.shape[-2] - weight.shape[1] + 1
    total = inputs[..., :count, :] * weight[:, 0]
    for at in range(1, weight.shape[1]):
        total += inputs[..., at : at + count, :] * weight[:, at]
    return total if bias is None else total.add_(bias)
