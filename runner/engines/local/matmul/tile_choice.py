"""Tiles (AMX) beside vectors: whether they compute the same, and from how many rows on they are faster.

One place decides for all that both can do. A variable may force one of them; tiles are tried beside vectors before they
are used; then both are measured once (measured_products.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from runner.engines.local.matmul.measured_products import Seconds
from runner.engines.local.matmul.panels import NO_TILES

UNKEPT = "not measured, since no folder keeps it"


@dataclass(frozen=True)
class TileChoice:
    """Tiles, vectors or both by the number of rows, in words for a job's facts."""

    fact: str
    tile_rows: int = 0  # 0: vectors only; else tiles from so many rows on, and vectors below
    note: str = ""  # tiles that were requested and are missing, or that compute something else


@dataclass(frozen=True)
class Candidates:
    """What tiles and vectors are to compute."""

    vectors: str  # the words for them below the rows of tiles
    alone: str  # and where all rows go by them
    variable: str  # that forces one of them
    is_forced: bool | None  # to tiles; False: to vectors; None: the faster one is used
    missing: str  # why tiles are not here; empty: they may be
    trial: Callable[[], str]  # says how the results of tiles differ from those of vectors; empty: not at all
    fewest_rows: int  # that go by tiles where nothing is measured
    whose: str = ""  # of what tiles are left out, in a note: " of attention"

    def choose(self, measured: Callable[[], Seconds | None], tile_rows_by: Callable[[Seconds], int]) -> TileChoice:
        """Return the way; seconds are only measured where both may be used."""
        if self.is_forced is False:
            return TileChoice(f"{self.alone} (by {self.variable})")
        difference = "" if self.missing else self.trial()
        if problem := self.missing or difference:
            note = f"tiles left out{self.whose}: {problem}" if difference else ""
            note = f"{self.variable}=tiles: {problem}" if self.is_forced else note
            return TileChoice(f"{self.alone} ({note})" if note else self.alone, 0, note)
        if self.is_forced:
            return self.by_tiles(self.fewest_rows, f"by {self.variable}")
        took = measured()
        if took is None:
            return self.by_tiles(self.fewest_rows, UNKEPT)
        return self.by_tiles(tile_rows_by(took))

    def by_tiles(self, tile_rows: int, remark: str = "") -> TileChoice:
        """Return the way by tiles from so many rows on; 0: by vectors."""
        words = words_of(tile_rows, self.vectors) if tile_rows else self.alone
        return TileChoice(f"{words} ({remark})" if remark else words, tile_rows)


def words_of(tile_rows: int, vectors: str, by: str = "") -> str:
    """Say how many rows go by tiles."""
    return (
        f"in the order of tiles, {by}{vectors}"
        if tile_rows == NO_TILES
        else f"tiles from {tile_rows} rows, {vectors} below"
    )


def fewest_faster_rows(
    tiles: Mapping[int, float],
    vectors: Mapping[int, float],
    rows: Sequence[int],
    otherwise: int,
    most: int | None = None,
) -> int:
    """Return the fewest of the numbers of rows from which on tiles are faster; `otherwise` if there is none.

    most: no larger number is returned.
    """
    found = (few for few in rows if all(tiles[more] < vectors[more] for more in rows if more >= few))
    return next((few for few in found if most is None or few <= most), otherwise)
