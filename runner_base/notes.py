"""Structured notes about a job, which the `render` packages convert to messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Level = Literal["info", "warning"]


@dataclass(frozen=True)
class Note:
    """A message with code, values and level. A value may be another note, or a tuple of notes."""

    code: str
    values: Mapping[str, Any] = field(default_factory=dict)
    level: Level = "info"

    def __hash__(self) -> int:
        return hash(self.code)  # values are in a dictionary, which has no hash


GIVEN = "given"


def note(code: str, level: Level = "info", /, **values: object) -> Note:
    return Note(code, values, level)


def text_note(text: str) -> Note:
    """Return a note with unstructured text, e.g. from another program."""
    return Note(GIVEN, {"text": text})
