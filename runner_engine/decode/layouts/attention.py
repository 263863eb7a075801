"""What is done to queries and keys before attention, and to scores, found by a trial of a layer's attention alone.

A few random rows go in; what the module hands to its attention is compared with its own projections, normed and rotated
in each way that C knows. So a layer without rotation, with another table or with a cap is known without its family.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from runner_engine.attention import PLAIN, Softmax, running
from runner_engine.decode.layouts.parts import (
    HEAD_NORMS,
    OF_ATTENTION,
    NotFusable,
    names_of_parts,
    projections_of,
)
from runner_engine.kv_cache import Heads

POSITIONS = (1, 2, 5)  # of the rows
NEAR = 0.05  # of the largest number; another rotation gives about 1
IGNORED = {"rotary_emb"}  # parts that the whole model has as well


@dataclass(frozen=True)
class Rotation:
    """Which numbers of a head are rotated, and how a family's table has their angles."""

    rotated: int  # the first numbers of each head
    is_interleaved: bool  # neighbours are a point, and not halves
    of_table: str  # where the angles of points are: in its first half, in every second place, or all of it

    def table(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return cos or sin of positions and points, float32 [n, rotated / 2], from those of the family."""
        angles: torch.Tensor = ANGLES[self.of_table](numbers)
        return angles.float().contiguous()

    def turn(self, heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Rotate heads [T, H, D]; cos, sin: of the family, [T, n]."""
        cos, sin = (self.table(numbers)[:, None] for numbers in (cos, sin))
        turned, rest = heads[..., : self.rotated], heads[..., self.rotated :]
        shape, between = turned.shape[:-1], -1 if self.is_interleaved else -2
        points = turned.reshape(*shape, -1, 2) if self.is_interleaved else turned.reshape(*shape, 2, -1)
        first, second = points.unbind(between)
        turned = torch.stack((first * cos - second * sin, second * cos + first * sin), between).flatten(-2)
        return torch.cat((turned, rest), -1)


ANGLES = {
    "first half": lambda numbers: numbers[..., : numbers.shape[-1] // 2],
    "every second": lambda numbers: numbers[..., ::2],
    "all": lambda numbers: numbers,
}


@dataclass(frozen=True)
class AttentionLayout:
    """The parts of a layer's attention, and what it does to heads and scores."""

    into: tuple[nn.Module, ...]  # queries, keys and values, or one layer for all
    out: nn.Module
    norms: tuple[nn.Module, nn.Module] | None  # of queries and of keys
    norms_all_heads: bool  # together, and not each head
    rotation: Rotation | None
    scale: float
    cap: float
    sinks: torch.Tensor | None
    has_gates: bool  # behind each query, of what it finds
    key_scale: float = 1.0  # what keys are multiplied by


class _Handed(Exception):
    """What a module hands to its attention; ends its forward pass."""

    def __init__(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, softmax: Softmax):
        super().__init__()
        self.heads = tuple(heads.transpose(0, 1).float() for heads in (query, key, value))
        self.scale, self.softmax = scale, softmax


def attention_of(
    model: Any, attention: Any, heads: Heads, rows: torch.Tensor, table: tuple[torch.Tensor, torch.Tensor] | None
) -> AttentionLayout:
    """Return the layout of a layer's attention; rows [1, T, hidden], table: cos and sin at POSITIONS, or nothing."""
    norm_names = next((set(names) for names in HEAD_NORMS if set(names) <= names_of_parts(attention)), set())
    names = projections_of(attention, OF_ATTENTION, norm_names | IGNORED)
    into = tuple(getattr(attention, name) for name in names.into)
    handed = _handed_over(model, attention, rows, table)
    expected_shapes = [
        (heads.kv_heads * heads.group, heads.dim),
        (heads.kv_heads, heads.dim),
        (heads.kv_heads, heads.dim),
    ]
    if [tuple(some.shape[1:]) for some in handed.heads] != expected_shapes:
        raise NotFusable("its layers have heads of other shapes")
    widths = [count * dim for count, dim in expected_shapes]
    made = torch.cat([layer(rows)[0] for layer in into], -1)
    if has_gates := len(into) == 3 and made.shape[-1] == sum(widths) + widths[0]:
        queries_and_gates, made = made[:, : 2 * widths[0]], made[:, 2 * widths[0] :]
        made = torch.cat((queries_and_gates.view(len(made), -1, 2, heads.dim)[:, :, 0].flatten(1), made), -1)
    if made.shape[-1] != sum(widths):
        raise NotFusable("its queries, keys and values have other sizes")
    own = [some.view(len(some), -1, heads.dim) for some in torch.split(made, widths, -1)]
    key_scale = float(getattr(attention, "key_multiplier", 1.0))
    own[1] = own[1] * key_scale
    norms, norms_all = None, False
    if norm_names:
        pair = next(names for names in HEAD_NORMS if set(names) == norm_names)
        norms = (getattr(attention, pair[0]), getattr(attention, pair[1]))
        own[:2], norms_all = _normed(norms, own[:2])
    queries, keys, values = (some.float() for some in own)
    if _off(values, handed.heads[2]) > NEAR:
        raise NotFusable("its values are made otherwise")
    rotation = _rotation(queries, keys, handed, table)
    softmax = handed.softmax
    return AttentionLayout(
        into,
        getattr(attention, names.out),
        norms,
        norms_all,
        rotation,
        handed.scale,
        softmax.cap,
        softmax.sinks,
        has_gates,
        key_scale,
    )


def _handed_over(
    model: Any, attention: Any, rows: torch.Tensor, table: tuple[torch.Tensor, torch.Tensor] | None
) -> _Handed:
    def record(
        _: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, softmax: Softmax = PLAIN
    ) -> torch.Tensor:
        raise _Handed(query, key, value, scale, softmax)

    try:
        with running(model, record):
            attention(hidden_states=rows, position_embeddings=table, attention_mask=None)
    except _Handed as handed:
        return handed
    raise NotFusable("its attention does not go through transformers' interface")


def _normed(norms: tuple[nn.Module, nn.Module], heads: list[torch.Tensor]) -> tuple[list[torch.Tensor], bool]:
    """Return normed queries and keys [T, H, D], and whether all heads are normed together."""
    weights = [getattr(norm, "weight", None) for norm in norms]
    sizes = [weight.numel() for weight in weights if isinstance(weight, torch.Tensor)]
    dim = heads[0].shape[-1]
    if all(size == dim for size in sizes):
        return [norm(some) for norm, some in zip(norms, heads, strict=True)], False
    if sizes != [some.shape[1] * dim for some in heads]:
        raise NotFusable("its norms of queries and keys have a weight for each head")
    return [norm(some.flatten(1)).view_as(some) for norm, some in zip(norms, heads, strict=True)], True


def _rotation(
    queries: torch.Tensor, keys: torch.Tensor, handed: _Handed, table: tuple[torch.Tensor, torch.Tensor] | None
) -> Rotation | None:
    """Return the rotation that gives what the module hands over, None where it is what was made."""
    if _off(queries, handed.heads[0]) <= NEAR and _off(keys, handed.heads[1]) <= NEAR:
        return None
    if table is None:
        raise NotFusable("its queries and keys are rotated by themselves")
    cos, sin = (numbers[0] for numbers in table)
    wide = cos.shape[-1]
    choices = [
        Rotation(2 * wide if of_table == "all" else wide, is_interleaved, of_table)
        for of_table in ANGLES
        for is_interleaved in (False, True)
    ]
    off = {
        choice: max(
            _off(choice.turn(made, cos, sin), given)
            for made, given in ((queries, handed.heads[0]), (keys, handed.heads[1]))
        )
        for choice in choices
        if choice.rotated <= queries.shape[-1] and choice.rotated % 2 == 0
    }
    best = min(off, key=lambda choice: off[choice], default=None)
    if best is None or off[best] > NEAR:
        raise NotFusable("its queries and keys are rotated or normed otherwise")
    return best


def _off(made: torch.Tensor, given: torch.Tensor) -> float:
    """Return how far numbers are off at most, as a share of the largest."""
    return float(((made - given).abs().max() / given.abs().max().clamp(min=1e-9)).item())
