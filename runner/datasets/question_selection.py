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
    """Selects questions of a split: shuffles them if a seed is set, skips `offset` questions, then
    takes `limit` questions.
    """

    limit: int | None = None
    offset: int = 0
    shuffle_seed: int | None = None

    def select_question_positions(self, num_questions: int) -> Sequence[int]:
        places: Sequence[int] = range(num_questions)
        if self.shuffle_seed is not None:
            places = Random(self.shuffle_seed).sample(places, num_questions)
        return places[self.offset :][: self.limit]

    def select_rows(self, rows: Iterable[Row]) -> Iterator[tuple[int, Row]]:
        if self.shuffle_seed is None:
            end = None if self.limit is None else self.offset + self.limit
            yield from islice(enumerate(rows), self.offset, end)
        else:
            every = list(rows)
            yield from (
                (position, every[position]) for position in self.select_question_positions(len(every))
            )
