"""Interface of drafters for speculative decoding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from runner_engine.decode.passes import HiddenStateReader
from runner_engine.decode.sequences import TokenSequence


class Drafter(Protocol):
    """Proposes draft tokens for sequences. Drafting must be deterministic."""

    def propose(self, sequences: Sequence[TokenSequence], max_tokens: Sequence[int]) -> list[list[int]]:
        """Return draft tokens for each sequence, at most max_tokens[i] for sequence i."""

    def reset(self) -> None:
        """Forget the tokens and KV cache of all sequences."""

    @property
    def bytes_per_token(self) -> int:
        """Bytes of memory that drafting needs for each token of a sequence."""

    @property
    def bytes_per_row(self) -> int:
        """Bytes of memory that drafting needs for each sequence, independent of the sequence length."""

    @property
    def hidden_reader(self) -> HiddenStateReader | None:
        """Object that receives the target model's hidden states, or None if the drafter needs none."""
