"""What an engine does when memory has no room for all rows that go along together."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ShortageCause(StrEnum):
    """Why fewer rows go along than were requested."""

    no_room = "no_room"  # known before they began
    ran_out = "ran_out"  # an allocation failed, and the engine went on with fewer


@dataclass(frozen=True)
class RowShortage:
    """Fewer concurrent rows than were requested."""

    cause: ShortageCause
    rows: int  # how many go along from now on
    asked_rows: int  # how many were to go along; 0: a shared prefix was read, before any
    kv_tokens: int | None = (
        None  # the tokens of keys and values that memory has room for, where they are counted
    )
