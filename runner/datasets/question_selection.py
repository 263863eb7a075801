"""Selects which questions of a split a job uses, and in which order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Any

Row = tuple[str, Any]  # its place in the file, and its values or its line of JSON


@dataclass(frozen=True)
class QuestionSelection:
    """Selection of a split's questions: shuffled by a seed, then `limit` questions from `offset` on."""

    limit: int | None = None
    offset: int = 0
    shuffle_seed: int | None = None

    def select_positions(self, num_questions: int) -> Sequence[int]:
        """Return the positions of the selected questions in a split, in the order of use."""
        places: Sequence[int] = range(num_questions)
        if self.shuffle_seed is not None:
            places = Random(self.shuffle_seed).sample(places, num_questions)
        return places[self.offset :][: self.limit]

    def select_rows(self, rows: Iterable[Row]) -> Iterator[tuple[int, Row]]:
        """Yield the selected table rows with their positions. Without a shuffle, reading stops after the
        last one.
        """
        if self.shuffle_seed is None:
            end = None if self.limit is None else self.offset + self.limit
            yield from islice(enumerate(rows), self.offset, end)
        else:
            every = list(rows)
            yield from ((position, every[position]) for position in self.select_positions(len(every)))
