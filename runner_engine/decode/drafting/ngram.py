"""N-gram drafter (prompt lookup): proposes the tokens that followed the last n-gram earlier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

from runner_engine.decode.passes import Forward
from runner_engine.decode.sequences import TokenSequence
from runner_engine.decode.tokens import NgramLookup
from runner_engine.sessions import EngineStats


class TokenDrafter:
    """Looks up the last n-gram of each sequence in its earlier tokens."""

    bytes_per_token = 0
    bytes_per_row = 0
    hidden_reader = None

    def __init__(self, _stats: EngineStats, _load_draft: Callable[[], Forward] | None) -> None:
        self._lookups: WeakKeyDictionary[TokenSequence, NgramLookup] = WeakKeyDictionary()

    def propose(self, sequences: Sequence[TokenSequence], max_tokens: Sequence[int]) -> list[list[int]]:
        """Return the tokens that followed the last n-gram before, or nothing if the n-gram is new."""
        guesses = []
        for row, limit in zip(sequences, max_tokens, strict=True):
            lookup = self._lookups.get(row)
            if lookup is None:
                lookup = self._lookups[row] = NgramLookup(row.prompt)
            guesses.append(lookup.draft(row.tokens, limit) if limit > 0 else [])
        return guesses

    def reset(self) -> None:
        """Do nothing. N-grams of a sequence remain valid when it continues."""
