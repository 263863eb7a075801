"""Sums log-probabilities and divergences by position in the context."""

from __future__ import annotations

import math
from collections.abc import Sequence

from runner_base.generated_positions import split_by_generated_position

LEAST = 512  # tokens of the longest window: of shorter ones nothing is kept by position


def sum_logprobs_by_position_range(
    num_context_tokens: int, logprobs: Sequence[float], divergences: Sequence[float] = ()
) -> list[list[float]]:
    """Sum log-probabilities and divergences over ranges of positions in the context.

    Bin b holds the tokens with 2**b to 2**(b + 1) - 1 tokens before them. Each row has the bin, the
    number of tokens, the log-probability in nats, and the KL divergence if given.
    """
    sums: list[list[float]] = []
    begin = 0
    while begin < len(logprobs):
        number = (num_context_tokens + begin).bit_length() - 1
        end = min(len(logprobs), 2 ** (number + 1) - num_context_tokens)
        of_bin = [number, end - begin, math.fsum(logprobs[begin:end])]
        sums.append([*of_bin, math.fsum(divergences[begin:end])] if divergences else of_bin)
        begin = end
    return sums


def sum_scores_by_generated_position(
    logprobs: Sequence[float], divergences: Sequence[float] = (), agreed: Sequence[bool] = ()
) -> list[list[float]]:
    """Sum the numbers of an answer's tokens over bins of generated positions.

    Each row has the first position of the bin, the number of tokens and the log-probability in nats.
    With a reference, the KL divergence and the number of equal most probable tokens follow.
    """
    sums: list[list[float]] = []
    for first, end in split_by_generated_position(len(logprobs)):
        of_bin = [first, end - first, math.fsum(logprobs[first:end])]
        if divergences:
            of_bin += [math.fsum(divergences[first:end]), sum(agreed[first:end])]
        sums.append(of_bin)
    return sums
