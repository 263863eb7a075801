"""Prompt lookup at every step: the tokens that followed a row's last ones where they occurred
before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

from runner_engine.decode.passes import Forward
from runner_engine.decode.rows import Row
from runner_engine.decode.tokens import Lookup
from runner_engine.sessions import EngineStats


class Way:
    """Looks up the last tokens of each row."""

    bytes_per_token = 0
    bytes_per_row = 0
    hidden_reader = None

    def __init__(self, _stats: EngineStats, _draft: Callable[[], Forward] | None) -> None:
        self._lookups: WeakKeyDictionary[Row, Lookup] = WeakKeyDictionary()

    def propose(self, rows: Sequence[Row], most: Sequence[int]) -> list[list[int]]:
        """Return what followed before; nothing where the last tokens are new."""
        guesses = []
        for row, limit in zip(rows, most, strict=True):
            lookup = self._lookups.get(row)
            if lookup is None:
                lookup = self._lookups[row] = Lookup(row.prompt)
            guesses.append(lookup.draft(row.tokens, limit) if limit > 0 else [])
        return guesses

    def forget(self) -> None:
        """Do nothing: what followed a row's tokens is still known when it continues."""
