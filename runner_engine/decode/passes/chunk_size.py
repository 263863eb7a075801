"""Chooses the size of prefill chunks, so that decoding sequences wait only briefly for their next token.

The time of a pass depends on the processor, the model and the position in the prompt, so
it is measured pass by pass. The computed tokens do not depend on it: sums have the same
order for every chunk size.
"""

from __future__ import annotations

WAIT_S = 0.25  # of a row that decodes, for its next token
FIRST_TOKENS = 256  # before a pass was measured
LEAST_TOKENS = 128  # however slow the model is: with fewer, its weights are read too often


class ChunkSizer:
    """Computes the next prefill chunk's size from the duration of the last forward pass."""

    def __init__(self) -> None:
        self.tokens = FIRST_TOKENS

    def record_pass(self, num_tokens: int, seconds: float) -> None:
        """Record the duration of a forward pass that both prefilled and decoded."""
        self.tokens = max(int(num_tokens * WAIT_S / max(seconds, 1e-9)), LEAST_TOKENS)
