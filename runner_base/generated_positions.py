"""Bins of generated positions: tokens 0 to 15 of an answer, 16 to 63, 64 to 255 and so on."""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise

FIRST_TOKENS = (0, 16, 64, 256, 1024, 4096)  # of the bins


def split_by_generated_position(num_tokens: int) -> list[tuple[int, int]]:
    """Return the first and the last token (exclusive) of each bin that an answer reaches."""
    reached = FIRST_TOKENS[: bisect_right(FIRST_TOKENS, num_tokens - 1)]
    return list(pairwise([*reached, num_tokens]))
