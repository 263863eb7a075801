"""Which of several ways to compute the same is the fastest on this machine: of products, and of
attention.

Processors differ: an instruction has full rate on one maker's cores and a fraction of it on
another's. So the ways that are here are tried beside a reference, measured once (measured.py) and
kept beside the kernels (kept_seconds.py). A variable may force one of them. The notes on the
decision are made in choice.py.

A row's result must not depend on how many rows go along. Tiles (AMX) and vectors in their order may
be mixed by the number of rows, because they sum bit for bit alike; every other way serves any
number of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from runner_base.notes import Note
from runner_engine.kernels.shared_numbers import NO_TILES
from runner_engine.matmul.measured import Seconds

TILES = "tiles"
TIE = 1.1  # a way that is faster by less does not take the place of an earlier one


def _no_trial() -> None:
    return None


@dataclass(frozen=True)
class Candidate:
    """One way to compute the same."""

    name: str
    missing: Note | None = None  # why it is not here
    # returns how its results differ from the reference; None: only by rounding
    trial: Callable[[], Note | None] = _no_trial


@dataclass(frozen=True)
class Contest:
    """How the fastest of several ways is found."""

    seconds: Callable[[list[str]], Seconds | None]  # of some ways; None where they cannot be kept
    fastest: Callable[[Seconds], tuple[str, int]]  # a way and its tile_rows
    fewest_tile_rows: int  # where nothing is measured


@dataclass(frozen=True)
class Decision:
    """The way that is used, and why."""

    way: str
    tile_rows: int  # of tiles: from so many rows on they are used, vectors below
    differences: Mapping[str, Note]  # of the ways that compute something else: how it differs
    wanted: str | None = None  # the way that a variable forces
    problem: Note | None = None  # why that one is not used
    is_unmeasured: bool = False  # several ways work, and the first is used because nothing could be kept


def decide(candidates: Sequence[Candidate], wanted: str | None, contest: Contest) -> Decision:
    """Return the way to use: the one that a variable forces, the only one that works here, or the
    fastest.

    wanted: the forced way; one that does not work is replaced by the first of those after it.
    """
    names = [candidate.name for candidate in candidates]
    considered = candidates[names.index(wanted) if wanted else 0 :]
    trials = {candidate.name: candidate.trial() for candidate in considered if not candidate.missing}
    differences = {name: how for name, how in trials.items() if how}
    usable = [name for name, how in trials.items() if not how]
    first = usable[0]
    tile_rows = contest.fewest_tile_rows if first == TILES else 0
    if wanted:
        problem = differences.get(wanted, considered[0].missing)
        return Decision(first, tile_rows, differences, wanted, problem)
    if len(usable) == 1:
        return Decision(first, tile_rows, differences)
    took = contest.seconds(usable)
    if took is None:
        return Decision(first, tile_rows, differences, is_unmeasured=True)
    way, tile_rows = contest.fastest(took)
    return Decision(way, tile_rows, differences)


def fastest_way(
    took: Seconds,
    in_order: str,
    passes: Mapping[int, int],
    advantage: Callable[[str, str], float],
    most_tile_rows: int | None = None,
) -> tuple[str, int]:
    """Return the way that is the fastest over some passes, by their numbers of rows, and its
    tile_rows.

    in_order: what is measured of vectors in the order of tiles. advantage: by how much a way has to
    be faster to take the place of another one.
    """
    expected, tile_rows = dict(took), 0
    if TILES in took:
        tiles, vectors = took[TILES], expected.pop(in_order)
        tile_rows = fewest_faster_rows(tiles, vectors, sorted(tiles), NO_TILES, most_tile_rows)
        expected[TILES] = {count: min(tiles[count], vectors[count]) for count in tiles}
    total = {
        way: sum(by_rows[count] * times for count, times in passes.items())
        for way, by_rows in expected.items()
    }
    best = next(iter(total))
    for way in total:
        if way != best and total[best] > total[way] * advantage(best, way):
            best = way
    return best, tile_rows if best == TILES else 0


def fewest_faster_rows(
    tiles: Mapping[int, float],
    vectors: Mapping[int, float],
    rows: Sequence[int],
    otherwise: int,
    most: int | None = None,
) -> int:
    """Return the fewest of the numbers of rows from which on tiles are faster; `otherwise` if there
    is none.

    most: no larger number is returned.
    """
    found = (few for few in rows if all(tiles[more] < vectors[more] for more in rows if more >= few))
    return next((few for few in found if most is None or few <= most), otherwise)
