"""Describes the selected backend in facts and notes.

Reads the environment variable that forces a backend.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from runner_base import ConfigError
from runner_base.notes import Note, note
from runner_engine.kernels.c_interface import NO_TILES
from runner_engine.matmul.autotune import BackendDecision


@dataclass(frozen=True)
class BackendChoice:
    """The selected backend, and the fact that reports it in a job's result."""

    way: str
    fact: Note
    tile_rows: int = 0  # of tiles: from so many rows on they are used, vectors below
    note: Note | None = None  # a way that was requested and is missing, or that computes something else
    is_free: bool = True  # and not forced, neither by a variable nor by too little memory


@dataclass(frozen=True)
class BackendNaming:
    """Display names of the backends, and the environment variable that forces one of them."""

    ways: Mapping[str, Callable[[int], Note]]  # each way, by the rows from which on tiles are used
    variable: str  # that forces a way
    is_attention: bool = False
    remark: Note | None = None  # for the facts


def build_backend_choice_from_decision(decision: BackendDecision, naming: BackendNaming) -> BackendChoice:
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
    return BackendChoice(decision.way, fact, decision.tile_rows, remark, is_free=not decision.wanted)


def build_tile_batch_size_note(tile_rows: int, vector_backend: str, reason: str = "") -> Note:
    if tile_rows == NO_TILES:
        return note("order_of_tiles", by=reason, vectors=vector_backend)
    return note("tiles_from_rows", rows=tile_rows, vectors=vector_backend)


def read_forced_backend(variable: str, backends: Sequence[str]) -> str | None:
    """Return the backend that an environment variable forces.

    Raises ConfigError if the backend's name is unknown.
    """
    text = os.environ.get(variable, "")
    if text and text not in backends:
        raise ConfigError(
            f"unknown backend. Choose one of {', '.join(backends)}, or omit it to use the fastest",
            key=variable,
            value=text,
            code="unknown_choice",
        )
    return text or None
