"""How heads are rotated to their positions, found by comparing what a family hands to its attention
with each way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from runner_engine.decode.layouts.parts import NotFusable
from runner_engine.kernels.shared_numbers import RopePoints

POSITIONS_AT_ONCE = 2048  # of a table: a family's own takes eight times the memory of what is kept
NEAR = 0.05  # of the largest number; another rotation gives about 1


@dataclass(frozen=True)
class Angles:
    """A family's angles at some positions."""

    given: Any  # as its table gives them to its attention
    cos: torch.Tensor  # [T, n]
    sin: torch.Tensor

    @property
    def are_complex(self) -> bool:
        """Whether the table has complex numbers, and not cos and sin."""
        return isinstance(self.given, torch.Tensor)


class RopeTable:
    """One of a model's tables of cos and sin."""

    def __init__(self, module: Any, kind: str | None) -> None:
        self.module, self.kind = module, kind

    def angles(self, like: torch.Tensor, positions: Sequence[int] | torch.Tensor) -> Angles:
        """Return the angles at positions, in the format of `like`."""
        at = torch.as_tensor(positions)[None]
        given = self.module(like, at) if self.kind is None else self.module(like, at, self.kind)
        if isinstance(given, torch.Tensor):
            return Angles(given, given[0].real, given[0].imag)
        cos, sin = given
        return Angles(given, cos[0], sin[0])


@dataclass(frozen=True)
class Rotation:
    """Which numbers of a head are rotated, and how a family's table has their angles."""

    rotated: int  # so many of each head
    points: RopePoints
    of_table: str  # where the angles of points are: in its first half, in every second place, or all of it

    def table(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return cos or sin of positions and points, float32 [n, rotated / 2], from those of the
        family."""
        angles: torch.Tensor = ANGLES[self.of_table](numbers)
        return angles.float().contiguous()

    def tables(self, rope: RopeTable, like: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cos and sin of the first `count` positions and of points, float32 [count,
        rotated / 2]."""
        # said, since a load in another thread sets torch's default format for a while
        shape = (count, self.rotated // 2)
        cos, sin = (torch.empty(shape, dtype=torch.float32) for _ in range(2))
        with torch.inference_mode():
            for first in range(0, count, POSITIONS_AT_ONCE):
                end = min(first + POSITIONS_AT_ONCE, count)
                # the last position is among them, since some families' angles depend on the longest
                at = torch.cat((torch.arange(first, end), torch.tensor([count - 1])))
                angles = rope.angles(like, at)
                cos[first:end] = self.table(angles.cos)[:-1]
                sin[first:end] = self.table(angles.sin)[:-1]
        return cos, sin

    def turn(self, heads: torch.Tensor, angles: Angles) -> torch.Tensor:
        """Rotate the first numbers of heads [T, H, D]."""
        cos, sin = (self.table(numbers)[:, None] for numbers in (angles.cos, angles.sin))
        turned, rest = heads[..., : self.rotated], heads[..., self.rotated :]
        in_halves = self.points is RopePoints.points_in_halves
        shape, between = turned.shape[:-1], -2 if in_halves else -1
        points = turned.reshape(*shape, 2, -1) if in_halves else turned.reshape(*shape, -1, 2)
        first, second = points.unbind(between)
        into = -1 if self.points is RopePoints.points_of_neighbours else -2
        turned = torch.stack((first * cos - second * sin, second * cos + first * sin), into).flatten(-2)
        return torch.cat((turned, rest), -1)


ANGLES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "first half": lambda numbers: numbers[..., : numbers.shape[-1] // 2],
    "every second": lambda numbers: numbers[..., ::2],
    "all": lambda numbers: numbers,
}
Heads = tuple[torch.Tensor, torch.Tensor]  # of queries and of keys, [T, H, D]
# what is done to both when they have been rotated
Finish = Callable[[Heads], Sequence[torch.Tensor]]


def rotation_of(
    made: Heads, given: Heads, angles: Angles | None, finish: Finish = tuple
) -> tuple[Rotation | None, float]:
    """Return the rotation that gives what a module hands over, and how far it is off; None: nothing
    is rotated."""
    best, least = None, _most_off(finish(made), given)
    if least <= NEAR or angles is None:
        return best, least
    wide = angles.cos.shape[-1]
    for of_table in ANGLES:
        for points in RopePoints:
            choice = Rotation(2 * wide if of_table == "all" else wide, points, of_table)
            if choice.rotated > made[0].shape[-1] or choice.rotated % 2:
                continue
            turned = choice.turn(made[0], angles), choice.turn(made[1], angles)
            off = _most_off(finish(turned), given)
            if off < least:
                best, least = choice, off
    return best, least


def check_near(least: float, angles: Angles | None) -> None:
    """Raise NotFusable where no known rotation gives what a module hands over."""
    if least <= NEAR:
        return
    if angles is None:
        raise NotFusable("its queries and keys are rotated by themselves")
    raise NotFusable("its queries and keys are rotated or normed otherwise")


def off_by(made: torch.Tensor, given: torch.Tensor) -> float:
    """Return how far numbers are off at most, as a share of the largest."""
    return float(((made - given).abs().max() / given.abs().max().clamp(min=1e-9)).item())


def _most_off(made: Sequence[torch.Tensor], given: Heads) -> float:
    return max(off_by(some.float(), other) for some, other in zip(made, given, strict=True))
