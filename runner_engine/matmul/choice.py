"""The way that is used of several, with the fact and the note on it; and the way that a variable
forces."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from runner_base import ConfigError
from runner_base.notes import Note, note
from runner_engine.kernels.shared_numbers import NO_TILES
from runner_engine.matmul.autotune import Decision


@dataclass(frozen=True)
class Choice:
    """The way that is used, with the fact on it for a job's result."""

    way: str
    fact: Note
    tile_rows: int = 0  # of tiles: from so many rows on they are used, vectors below
    note: Note | None = None  # a way that was requested and is missing, or that computes something else
    is_free: bool = True  # and not forced, neither by a variable nor by too little memory


@dataclass(frozen=True)
class Naming:
    """How facts and notes speak of what is chosen."""

    ways: Mapping[str, Callable[[int], Note]]  # each way, by the rows from which on tiles are used
    variable: str  # that forces a way
    is_attention: bool = False
    remark: Note | None = None  # for the facts


def choice_of(decision: Decision, naming: Naming) -> Choice:
    """Return the choice that was decided on, with the fact and the note on it."""
    left_out = tuple(
        note("way_left_out", way=way, is_attention=naming.is_attention, how=how)
        for way, how in decision.differences.items()
    )
    reason = remark = note("ways_left_out", ways=left_out) if left_out else None
    if decision.problem:
        reason = remark = note(
            "forced_way_fails", variable=naming.variable, way=decision.wanted, problem=decision.problem
        )
    elif decision.wanted:
        reason = note("way_forced", variable=naming.variable)
    elif decision.is_unmeasured:
        reason = note("way_unmeasured")
    way = naming.ways[decision.way](decision.tile_rows)
    reasons = tuple(part for part in (reason, naming.remark) if part)
    fact = note("way_with_reasons", way=way, reasons=reasons) if reasons else way
    return Choice(decision.way, fact, decision.tile_rows, remark, is_free=not decision.wanted)


def describe_tiles(tile_rows: int, vectors: str, by: str = "") -> Note:
    """Return from how many rows on tiles are used."""
    if tile_rows == NO_TILES:
        return note("order_of_tiles", by=by, vectors=vectors)
    return note("tiles_from_rows", rows=tile_rows, vectors=vectors)


def requested_way(variable: str, ways: Sequence[str]) -> str | None:
    """Return the way that a variable forces; ConfigError where it is none."""
    text = os.environ.get(variable, "")
    if text and text not in ways:
        raise ConfigError(
            f"choose one of {', '.join(ways)}, or leave it away to have the fastest",
            key=variable,
            value=text,
            code="unknown_choice",
        )
    return text or None
