"""Which questions of a split a job asks, and in which order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Any

Row = tuple[str, Any]  # its place in the file, and its values or its line of JSON


@dataclass(frozen=True)
class QuestionSelection:
    """Which questions of a split, and in which order: shuffled by the seed, then from `offset`
    on."""

    limit: int | None = None
    offset: int = 0
    shuffle_seed: int | None = None

    def of(self, total: int) -> Sequence[int]:
        """Return the places of the selected questions in a split of `total`."""
        places: Sequence[int] = range(total)
        if self.shuffle_seed is not None:
            places = Random(self.shuffle_seed).sample(places, total)
        return places[self.offset :][: self.limit]

    def among(self, rows: Iterable[Row]) -> Iterator[tuple[int, Row]]:
        """Yield the selected rows with their places; without a shuffle, nothing after the last of
        them is read."""
        if self.shuffle_seed is None:
            end = None if self.limit is None else self.offset + self.limit
            yield from islice(enumerate(rows), self.offset, end)
        else:
            every = list(rows)
            yield from ((position, every[position]) for position in self.of(len(every)))
