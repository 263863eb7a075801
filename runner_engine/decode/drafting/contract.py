"""What a way of guessing does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from runner_engine.decode.passes import HiddenReader
from runner_engine.decode.rows import Row


class Drafter(Protocol):
    """Guesses the next tokens of rows; the same tokens always lead to the same guess."""

    def propose(self, rows: Sequence[Row], most: Sequence[int]) -> list[list[int]]:
        """Return a guess for each of the rows that decode, of at most so many tokens each."""

    def forget(self) -> None:
        """Forget the rows."""

    @property
    def bytes_per_token(self) -> int:
        """What it keeps in memory for each token of a row."""

    @property
    def bytes_per_row(self) -> int:
        """What it keeps in memory for each row, however long it is."""

    @property
    def hidden_reader(self) -> HiddenReader | None:
        """Who wants to know what the model's head reads; None: nobody."""
