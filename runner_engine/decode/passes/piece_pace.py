"""How many tokens of a long prompt a pass reads while other rows decode: so many that these wait
little for a token.

How long a pass takes depends on the processor, on the model, and on how far the prompt is, so it is
measured pass by pass. Which tokens are computed does not depend on it: sums have the same order
however a prompt is divided.
"""

from __future__ import annotations

WAIT_S = 0.25  # of a row that decodes, for its next token
FIRST_TOKENS = 256  # before a pass was measured
LEAST_TOKENS = 128  # however slow the model is: with fewer, its weights are read too often


class PiecePace:
    """The tokens of the next piece, from the seconds of the last one."""

    def __init__(self) -> None:
        self.tokens = FIRST_TOKENS

    def note(self, tokens: int, seconds: float) -> None:
        """Note how long a pass with so many tokens took, in which rows decoded, too."""
        self.tokens = max(int(tokens * WAIT_S / max(seconds, 1e-9)), LEAST_TOKENS)
