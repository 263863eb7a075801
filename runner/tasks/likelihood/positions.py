"""The sums of a window by position: what a job keeps of its single tokens. Not a task."""

from __future__ import annotations

import math
from collections.abc import Sequence

LEAST = 512  # tokens of the longest window: of shorter ones nothing is kept by position


def sums_by_position(
    before: int, logprobs: Sequence[float], divergences: Sequence[float] = ()
) -> list[list[float]]:
    """Return the sums of a window, the first token of which has so many `before` it: bin, tokens,
    nats, KL if known.

    Bin b holds the tokens with 2**b to 2**(b + 1) - 1 tokens before them.
    """
    sums: list[list[float]] = []
    begin = 0
    while begin < len(logprobs):
        number = (before + begin).bit_length() - 1
        end = min(len(logprobs), 2 ** (number + 1) - before)
        of_bin = [number, end - begin, math.fsum(logprobs[begin:end])]
        sums.append([*of_bin, math.fsum(divergences[begin:end])] if divergences else of_bin)
        begin = end
    return sums
