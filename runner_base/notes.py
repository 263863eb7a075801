"""What a user should know of a job, as values. The `render` package of each part has the sentences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Level = Literal["info", "warning"]


@dataclass(frozen=True)
class Note:
    """A fact or a reason. A value may be another note, or a tuple of notes."""

    code: str
    values: Mapping[str, Any] = field(default_factory=dict)
    level: Level = "info"

    def __hash__(self) -> int:
        return hash(self.code)  # values are in a dictionary, which has no hash


GIVEN = "given"


def note(code: str, level: Level = "info", /, **values: object) -> Note:
    return Note(code, values, level)


def given(text: str) -> Note:
    """Return a note in the words of somebody else: another program, an error, an older file."""
    return Note(GIVEN, {"text": text})
