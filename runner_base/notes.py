"""What a user should know of a job, as values. The `render` package of each part has the sentences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Level = Literal["info", "warning"]


@dataclass(frozen=True)
class Note:
    """A fact or a reason. A value may be another note, or a tuple of notes."""

    code: str
    values: Mapping[str, object] = field(default_factory=dict)
    level: Level = "info"


def note(code: str, level: Level = "info", /, **values: object) -> Note:
    return Note(code, values, level)
