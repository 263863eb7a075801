"""Interface of a drafter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from runner_engine.decode.passes import HiddenStateReader
from runner_engine.decode.sequences import TokenSequence


class Drafter(Protocol):
    """Proposes the next tokens of sequences. The same tokens always lead to the same draft."""

    def propose(self, sequences: Sequence[TokenSequence], max_tokens: Sequence[int]) -> list[list[int]]:
        """Return a draft for each sequence, with at most max_tokens[i] tokens."""

    def reset(self) -> None:
        """Forget all sequences."""

    @property
    def bytes_per_token(self) -> int:
        """Memory that drafting needs for each token of a sequence."""

    @property
    def bytes_per_row(self) -> int:
        """Memory that drafting needs for each sequence, independent of its length."""

    @property
    def hidden_reader(self) -> HiddenStateReader | None:
        """The receiver of the model's hidden states, or None."""
