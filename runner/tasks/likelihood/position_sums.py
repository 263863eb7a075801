"""Sums of log-probability and divergence by position in the window. Not a task."""

from __future__ import annotations

import math
from collections.abc import Sequence

LEAST = 512  # tokens of the longest window: of shorter ones nothing is kept by position


def sum_by_position(
    num_before: int, logprobs: Sequence[float], divergences: Sequence[float] = ()
) -> list[list[float]]:
    """Return sums per position bin: bin, tokens, nats, and KL if known. `num_before` tokens precede
    the window.

    Bin b holds the tokens with 2**b to 2**(b + 1) - 1 tokens before them.
    """
    sums: list[list[float]] = []
    begin = 0
    while begin < len(logprobs):
        number = (num_before + begin).bit_length() - 1
        end = min(len(logprobs), 2 ** (number + 1) - num_before)
        of_bin = [number, end - begin, math.fsum(logprobs[begin:end])]
        sums.append([*of_bin, math.fsum(divergences[begin:end])] if divergences else of_bin)
        begin = end
    return sums
