"""Selects the fastest backend on this machine, for matmul and for attention.

Processors differ: an instruction has full rate on one vendor's cores and a fraction of it on
another's. So each available backend is checked against a reference, measured once
(interleaved_timing.py) and its timings are stored next to the kernels (timing_cache.py). A variable
may force a backend. backend_choice.py writes the notes on the decision.

A sequence's result must not depend on the batch size. Tiles (AMX) and vectors in tile order may
be mixed by batch size, because their sums are bitwise equal; every other backend serves all batch
sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from runner_base.notes import Note
from runner_engine.kernels.c_interface import NO_TILES
from runner_engine.matmul.interleaved_timing import BackendTimings

TILES = "tiles"
TIE = 1.1  # a way that is faster by less does not take the place of an earlier one


def _accept_backend() -> None:
    return None


@dataclass(frozen=True)
class BackendCandidate:
    """A backend that `select_backend` may select."""

    name: str
    missing: Note | None = None  # why it is not here
    # returns how its results differ from the reference; None: only by rounding
    trial: Callable[[], Note | None] = _accept_backend


@dataclass(frozen=True)
class BackendBenchmark:
    """Functions that measure backends and find the fastest one."""

    seconds: Callable[[list[str]], BackendTimings | None]  # of some ways; None where they cannot be kept
    fastest: Callable[[BackendTimings], tuple[str, int]]  # a way and its tile_rows
    fewest_tile_rows: int  # where nothing is measured


@dataclass(frozen=True)
class BackendDecision:
    """The selected backend and the reason for its selection."""

    way: str
    tile_rows: int  # of tiles: from so many rows on they are used, vectors below
    differences: Mapping[str, Note]  # of the ways that compute something else: how it differs
    wanted: str | None = None  # the way that a variable forces
    problem: Note | None = None  # why that one is not used
    is_unmeasured: bool = False  # several ways work, and the first is used because nothing could be kept


def select_backend(
    candidates: Sequence[BackendCandidate], forced_backend: str | None, benchmark: BackendBenchmark
) -> BackendDecision:
    """Select the forced backend, or the fastest of the working backends if none is forced.

    forced_backend: a backend that does not work is replaced by the first working one after it.
    """
    names = [candidate.name for candidate in candidates]
    considered = candidates[names.index(forced_backend) if forced_backend else 0 :]
    trials = {candidate.name: candidate.trial() for candidate in considered if not candidate.missing}
    differences = {name: how for name, how in trials.items() if how}
    usable = [name for name, how in trials.items() if not how]
    first = usable[0]
    tile_rows = benchmark.fewest_tile_rows if first == TILES else 0
    if forced_backend:
        problem = differences.get(forced_backend, considered[0].missing)
        return BackendDecision(first, tile_rows, differences, forced_backend, problem)
    if len(usable) == 1:
        return BackendDecision(first, tile_rows, differences)
    took = benchmark.seconds(usable)
    if took is None:
        return BackendDecision(first, tile_rows, differences, is_unmeasured=True)
    way, tile_rows = benchmark.fastest(took)
    return BackendDecision(way, tile_rows, differences)


def find_fastest_backend(
    timings: BackendTimings,
    vector_timing_name: str,
    passes_by_batch_size: Mapping[int, int],
    required_speedup: Callable[[str, str], float],
    max_tile_rows: int | None = None,
) -> tuple[str, int]:
    """Return the fastest backend and the smallest batch size for which it uses AMX tiles.

    passes_by_batch_size: how often each batch size occurs. vector_timing_name: the timing of
    vectors in tile order. required_speedup: the factor by which a backend must be faster to replace
    another.
    """
    expected, tile_rows = dict(timings), 0
    if TILES in timings:
        tiles, vectors = timings[TILES], expected.pop(vector_timing_name)
        tile_rows = find_min_tile_batch_size(tiles, vectors, sorted(tiles), NO_TILES, max_tile_rows)
        expected[TILES] = {count: min(tiles[count], vectors[count]) for count in tiles}
    total = {
        way: sum(by_rows[count] * times for count, times in passes_by_batch_size.items())
        for way, by_rows in expected.items()
    }
    best = next(iter(total))
    for way in total:
        if way != best and total[best] > total[way] * required_speedup(best, way):
            best = way
    return best, tile_rows if best == TILES else 0


def find_min_tile_batch_size(
    tile_times: Mapping[int, float],
    vector_times: Mapping[int, float],
    batch_sizes: Sequence[int],
    default: int,
    max_rows: int | None = None,
) -> int:
    """Return the smallest batch size from which on AMX tiles are always faster than vector instructions.

    Returns `default` if there is none. max_rows: no larger size is returned.
    """
    found = (
        few
        for few in batch_sizes
        if all(tile_times[more] < vector_times[more] for more in batch_sizes if more >= few)
    )
    return next((few for few in found if max_rows is None or few <= max_rows), default)
