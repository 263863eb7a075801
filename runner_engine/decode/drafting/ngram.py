"""Drafter with n-gram lookup (prompt lookup): proposes the tokens that followed an earlier match."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

from runner_engine.decode.passes import Forward
from runner_engine.decode.sequences import TokenSequence
from runner_engine.decode.tokens import NgramLookup
from runner_engine.sessions import EngineStats


class TokenDrafter:
    """Proposes the tokens that followed an earlier occurrence of the last n-gram in the sequence."""

    bytes_per_token = 0
    bytes_per_row = 0
    hidden_reader = None

    def __init__(self, _stats: EngineStats, _load_draft_model: Callable[[], Forward] | None) -> None:
        self._lookups: WeakKeyDictionary[TokenSequence, NgramLookup] = WeakKeyDictionary()

    def propose(self, sequences: Sequence[TokenSequence], max_tokens: Sequence[int]) -> list[list[int]]:
        """Return, for each sequence, the tokens that followed the previous occurrence of its last n-gram.

        A new n-gram gives an empty draft.
        """
        guesses = []
        for row, limit in zip(sequences, max_tokens, strict=True):
            lookup = self._lookups.get(row)
            if lookup is None:
                lookup = self._lookups[row] = NgramLookup(row.prompt)
            guesses.append(lookup.draft(row.tokens, limit) if limit > 0 else [])
        return guesses

    def reset(self) -> None:
        """Keep the n-gram index, because it stays valid when a sequence continues."""
