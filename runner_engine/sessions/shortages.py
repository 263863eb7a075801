"""Records that free memory limits the number of concurrent sequences."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SequenceShortage:
    """A memory shortage that allows fewer concurrent sequences than requested."""

    rows: int  # how many go along from now on
    asked_rows: int  # how many were to go along; 0: a shared prefix was read, before any
    kv_tokens: int | None = None  # how many tokens of keys and values have room, where they are counted
    ran_out: bool = False  # an allocation failed, and the engine went on; False: known before they began
