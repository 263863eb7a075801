"""The way that is used of several, in words for a job's facts and notes; and the way that a
variable forces."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from runner_base import ConfigError
from runner_engine.kernels.shared_numbers import NO_TILES
from runner_engine.matmul.autotune import Decision

UNKEPT = "not measured, since no folder keeps it"


@dataclass(frozen=True)
class Choice:
    """The way that is used, in words for a job's facts."""

    way: str
    fact: str
    tile_rows: int = 0  # of tiles: from so many rows on they are used, vectors below
    note: str = ""  # a way that was requested and is missing, or that computes something else
    is_free: bool = True  # and not forced, neither by a variable nor by too little memory


@dataclass(frozen=True)
class Naming:
    """How facts and notes speak of what is chosen."""

    ways: Mapping[str, Callable[[int], str]]  # each way, by the rows from which on tiles are used
    variable: str  # that forces a way
    whose: str = ""  # of what a way is left out, in a note
    remark: str = ""  # for the facts


def choice_of(decision: Decision, naming: Naming) -> Choice:
    """Return the choice that was decided on, with the fact and the note on it."""
    left_out = [f"{way} left out{naming.whose}: {how}" for way, how in decision.differences.items()]
    reason = note = "; ".join(left_out)
    if decision.problem:
        reason = note = f"{naming.variable}={decision.wanted}: {decision.problem}"
    elif decision.wanted:
        reason = f"by {naming.variable}"
    elif decision.is_unmeasured:
        reason = UNKEPT
    way = naming.ways[decision.way](decision.tile_rows)
    remarks = "; ".join(part for part in (reason, naming.remark) if part)
    fact = f"{way} ({remarks})" if remarks else way
    return Choice(decision.way, fact, decision.tile_rows, note, is_free=not decision.wanted)


def words_of_tiles(tile_rows: int, vectors: str, by: str = "") -> str:
    """Say how many rows go by tiles."""
    if tile_rows == NO_TILES:
        return f"in the order of tiles, {by}{vectors}"
    return f"tiles from {tile_rows} rows, {vectors} below"


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
