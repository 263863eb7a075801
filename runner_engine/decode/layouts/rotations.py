"""Identifies a model's RoPE rotation: compares its rotated heads with each supported rotation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from runner_engine.decode.layouts.parts import NotFusable
from runner_engine.kernels.c_interface import RopePoints

POSITIONS_AT_ONCE = 2048  # of a table: a family's own takes eight times the memory of what is kept
NEAR = 0.05  # of the largest number; another rotation gives about 1


@dataclass(frozen=True)
class Angles:
    """Cosines and sines of the RoPE angles at some positions."""

    given: Any  # as its table gives them to its attention
    cos: torch.Tensor  # [T, n]
    sin: torch.Tensor

    @property
    def are_complex(self) -> bool:
        return isinstance(self.given, torch.Tensor)


class RopeTable:
    """A module of the model that computes cosines and sines for RoPE. A model may have several."""

    def __init__(self, module: Any, kind: str | None) -> None:
        self.module, self.kind = module, kind

    def compute_rope_angles(
        self, example_input: torch.Tensor, positions: Sequence[int] | torch.Tensor
    ) -> Angles:
        """Return the RoPE angles at the given positions.

        example_input: a tensor with the dtype of the result.
        """
        at = torch.as_tensor(positions)[None]
        given = (
            self.module(example_input, at) if self.kind is None else self.module(example_input, at, self.kind)
        )
        if isinstance(given, torch.Tensor):
            return Angles(given, given[0].real, given[0].imag)
        cos, sin = given
        return Angles(given, cos[0], sin[0])


@dataclass(frozen=True)
class Rotation:
    """How RoPE pairs the elements of a head, and where the RoPE table stores the angle of each pair."""

    rotated: int  # so many of each head
    points: RopePoints
    of_table: str  # where the angles of points are: in its first half, in every second place, or all of it

    def select_cos_or_sin_per_pair(self, cos_or_sin_table: torch.Tensor) -> torch.Tensor:
        """Select the cos or sin of each rotated pair from the model's table.

        Returns float32 [n, rotated / 2].
        """
        angles: torch.Tensor = ANGLES[self.of_table](cos_or_sin_table)
        return angles.float().contiguous()

    def build_tables(
        self, rope_table: RopeTable, example_input: torch.Tensor, num_positions: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the cos and sin of positions 0 … num_positions-1: float32 [num_positions, rotated / 2] each."""
        # said, since a load in another thread sets torch's default format for a while
        shape = (num_positions, self.rotated // 2)
        cos, sin = (torch.empty(shape, dtype=torch.float32) for _ in range(2))
        with torch.inference_mode():
            for first in range(0, num_positions, POSITIONS_AT_ONCE):
                end = min(first + POSITIONS_AT_ONCE, num_positions)
                # the last position is among them, since some families' angles depend on the longest
                at = torch.cat((torch.arange(first, end), torch.tensor([num_positions - 1])))
                angles = rope_table.compute_rope_angles(example_input, at)
                cos[first:end] = self.select_cos_or_sin_per_pair(angles.cos)[:-1]
                sin[first:end] = self.select_cos_or_sin_per_pair(angles.sin)[:-1]
        return cos, sin

    def rotate(self, heads: torch.Tensor, angles: Angles) -> torch.Tensor:
        """Apply RoPE to the first `rotated` elements of heads [T, H, D]."""
        cos, sin = (self.select_cos_or_sin_per_pair(numbers)[:, None] for numbers in (angles.cos, angles.sin))
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
HeadPostprocessor = Callable[[Heads], Sequence[torch.Tensor]]


def find_rope_rotation(
    projected: Heads, captured: Heads, angles: Angles | None, postprocess: HeadPostprocessor = tuple
) -> tuple[Rotation | None, float]:
    """Find the RoPE rotation that turns the projected queries and keys into the captured queries and keys.

    Returns the rotation (None: no rotation) and its error. postprocess: applied after the rotation.
    """
    best, least = None, _max_relative_error_of_pairs(postprocess(projected), captured)
    if least <= NEAR or angles is None:
        return best, least
    wide = angles.cos.shape[-1]
    # a complex table has one number for each pair
    for of_table in ("all",) if angles.are_complex else ANGLES:
        for points in RopePoints:
            choice = Rotation(2 * wide if of_table == "all" else wide, points, of_table)
            if choice.rotated > projected[0].shape[-1] or choice.rotated % 2:
                continue
            turned = choice.rotate(projected[0], angles), choice.rotate(projected[1], angles)
            off = _max_relative_error_of_pairs(postprocess(turned), captured)
            if off < least:
                best, least = choice, off
    return best, least


def check_rotation_error(error: float, angles: Angles | None) -> None:
    if error <= NEAR:
        return
    if angles is None:
        raise NotFusable("the attention module rotates queries and keys without a RoPE table")
    raise NotFusable("queries and keys have an unsupported rotation or norm")


def max_relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest absolute error, relative to the largest absolute value of the expected tensor."""
    return float(((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-9)).item())


def _max_relative_error_of_pairs(actual: Sequence[torch.Tensor], expected: Heads) -> float:
    return max(max_relative_error(some.float(), other) for some, other in zip(actual, expected, strict=True))
