"""Selects the questions of a split that a job uses, and their order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Any

Row = tuple[str, Any]  # its place in the file, and its values or its line of JSON


@dataclass(frozen=True)
class QuestionSelection:
    """Questions of a split and their order: shuffled by the seed, then from `offset` on."""

    limit: int | None = None
    offset: int = 0
    shuffle_seed: int | None = None

    def select_positions(self, total: int) -> Sequence[int]:
        """Return the positions of the selected questions in a split of `total` questions."""
        places: Sequence[int] = range(total)
        if self.shuffle_seed is not None:
            places = Random(self.shuffle_seed).sample(places, total)
        return places[self.offset :][: self.limit]

    def select_rows(self, rows: Iterable[Row]) -> Iterator[tuple[int, Row]]:
        """Yield the selected rows with their positions. Without a shuffle, reading stops after the last
        one.
        """
        if self.shuffle_seed is None:
            end = None if self.limit is None else self.offset + self.limit
            yield from islice(enumerate(rows), self.offset, end)
        else:
            every = list(rows)
            yield from ((position, every[position]) for position in self.select_positions(len(every)))
