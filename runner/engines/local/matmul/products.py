"""Which way a model's products are computed on this processor: measured once, and kept for later jobs.

Processors differ: an instruction has full rate on one maker's cores and a fraction of it on another's. So each way that
works here multiplies samples of the model's weights by few, some and many rows (measured_products.py), and the fastest
is chosen for the whole model. Before that each way is tried beside torch. Seconds are kept beside the compiled kernels,
so that noise on a busy machine cannot give a later job another way, whose sums differ in their last bits.

A row's result must not depend on how many rows go along. Tiles and vectors may be mixed by the number of rows, because
they sum in the same order, bit for bit; every other way serves any number of rows.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

import torch
from torch import nn

from runner.core.errors import ConfigError
from runner.core.processor import LEFT_OUT, left_out
from runner.engines.local.kernels.native import Kernels
from runner.engines.local.matmul.measured_products import Ways, kept_seconds
from runner.engines.local.matmul.onednn import Product, by_onednn, packing_problem
from runner.engines.local.matmul.panels import NO_TILES, Panels, fits_panels
from runner.engines.local.matmul.tile_choice import UNKEPT, fewest_faster_rows, words_of

FORCED = "RUNNER_PRODUCTS"


class Way(StrEnum):
    """How products are computed. Of equally fast ways the first is used; a missing one is replaced by the next."""

    tiles = "tiles"
    panels = "panels"
    onednn = "onednn"
    plain = "plain"


OWN = (Way.tiles, Way.panels)
VECTORS = "vectors"  # in the measurements: those that sum in the order of tiles
# Of the passes that a job is expected to have, so many have these rows: its last rows, some, and many or a prompt
PASSES = {4: 1, 16: 2, 128: 2}
TIE = 1.1  # a way that is faster by less does not take the place of an earlier one
# Only with our own products does a pass run in a single call, which makes a question 1.31 times as fast
# (bench/engine_ladder.py): others have to make up for that.
SINGLE_CALL = 1.3
FEWEST_TILE_ROWS = 8  # where tiles are forced and not measured; their instructions take as long for one row as for 16
TRIAL_ROWS = (33, 16, 5, 1)  # remainders of tiles and of registers
TRIAL_OUTPUTS = 80  # whole panels and a part of one
ALLOWED = {torch.float32: 1e-4, torch.bfloat16: 2e-2}  # of the largest result: rounding, and other orders of sums


@dataclass(frozen=True)
class Choice:
    """The way of a model's products, in words for a job's facts."""

    way: Way
    fact: str
    note: str = ""  # a way that was requested and is missing, or that computes wrong sums
    tile_rows: int = 0  # of tiles: from so many rows on they multiply, vectors below
    is_free: bool = True  # and not forced, neither by RUNNER_PRODUCTS nor by too little memory

    def product(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        kernels: Kernels | None,
        release: Callable[[int, int], None] | None = None,
    ) -> Panels | Product | None:
        """Return the product with a weight, packed; None where it stays as it is.

        A weight that does not fit in panels is packed by oneDNN, if that is possible. release: as of Panels.
        """
        if kernels is not None and self.way in OWN and fits_panels(weight, kernels):
            return Panels.of(weight, bias, kernels, self.tile_rows, release)
        return None if self.way is Way.plain or packing_problem(weight.dtype) else by_onednn(weight, bias)


def requested() -> Way | None:
    """Return the way that RUNNER_PRODUCTS forces; ConfigError where it is none."""
    text = os.environ.get(FORCED, "")
    if text and text not in list(Way):
        raise ConfigError(f"{FORCED}={text}: choose one of {', '.join(Way)}, or leave it away to have the fastest")
    return Way(text) if text else None


def choose(layers: Iterable[nn.Linear], dtype: torch.dtype, kernels: Kernels | None, is_small: bool = False) -> Choice:
    """Return the way for the layers of a model with weights of this dtype.

    is_small: a model whose products take less time than a pass saves in a single call, which needs our own products.
    """
    shapes = Counter((layer.out_features, layer.in_features) for layer in layers if layer.weight.dtype == dtype)
    return choose_for(shapes, dtype, kernels, is_small)


def choose_for(
    shapes: Mapping[tuple[int, int], int], dtype: torch.dtype, kernels: Kernels | None, is_own: bool
) -> Choice:
    """Return the way for so many layers of each shape (outputs and inputs).

    is_own: by products of our own, if there are any here.
    """
    inputs = tuple(sorted({inputs for _, inputs in shapes}))
    problems = {way: problem_of(way, inputs, dtype, kernels) for way in Way}
    usable = [way for way in Way if not problems[way]]
    wrong = "; ".join(f"{way} left out: {problem}" for way, problem in problems.items() if "off by" in problem)
    if (wanted := requested()) is not None:
        way = next(way for way in list(Way)[list(Way).index(wanted) :] if way in usable)
        note = "" if way is wanted else f"{FORCED}={wanted}: {problems[wanted]}"
        tile_rows = FEWEST_TILE_ROWS if way is Way.tiles else 0
        fact = _fact(way, tile_rows, dtype, kernels, note or f"by {FORCED}")
        return Choice(way, fact, note or wrong, tile_rows, is_free=False)
    own = [way for way in usable if way in OWN]
    candidates = own if own and is_own else usable
    if kernels is None or candidates[:1] == [Way.onednn]:  # nothing keeps a measurement, or nothing of ours is here
        candidates = candidates[:1]
    if len(candidates) == 1:
        return Choice(candidates[0], _fact(candidates[0], 0, dtype, kernels, wrong), wrong)
    assert kernels is not None
    return _fastest(candidates, shapes, dtype, kernels, wrong)


def _fastest(
    candidates: list[Way], shapes: Mapping[tuple[int, int], int], dtype: torch.dtype, kernels: Kernels, wrong: str
) -> Choice:
    """Return the fastest way by measurements; without a place to keep them the first, so that answers repeat."""
    ways: Ways = {}
    for way in candidates:
        ways |= measured_as(way, kernels)
    rows = sorted({*PASSES, FEWEST_TILE_ROWS}) if Way.tiles in candidates else sorted(PASSES)
    measured = kept_seconds(ways, list(shapes), rows, dtype, kernels)
    if measured is None:
        tile_rows = FEWEST_TILE_ROWS if candidates[0] is Way.tiles else 0
        return Choice(candidates[0], _fact(candidates[0], tile_rows, dtype, kernels, UNKEPT), wrong, tile_rows)
    took = {
        name: {count: sum(measured[shape][name][count] * layers for shape, layers in shapes.items()) for count in rows}
        for name in ways
    }
    tile_rows = 0
    if Way.tiles in candidates:
        tile_rows = fewest_faster_rows(took[Way.tiles], took[VECTORS], rows, NO_TILES)
        took[Way.tiles] = {count: min(took[Way.tiles][count], took[VECTORS][count]) for count in rows}
    expected = {way: sum(took[way][count] * passes for count, passes in PASSES.items()) for way in candidates}
    best = candidates[0]
    for way in candidates[1:]:
        if expected[best] > expected[way] * (SINGLE_CALL if best in OWN and way not in OWN else TIE):
            best = way
    tile_rows = tile_rows if best is Way.tiles else 0
    return Choice(best, _fact(best, tile_rows, dtype, kernels, wrong), wrong, tile_rows)


def _fact(way: Way, tile_rows: int, dtype: torch.dtype, kernels: Kernels | None, remark: str) -> str:
    """Say how products are computed."""
    vectors = "" if kernels is None else kernels.vectors_for(dtype)
    if way is Way.tiles:
        words = words_of(tile_rows, vectors, "by ")
    else:
        words = {Way.panels: f"panels, by {vectors}", Way.onednn: "oneDNN, packed", Way.plain: "torch, not packed"}[way]
    masked = f"{LEFT_OUT}={','.join(left_out())}" if left_out() else ""
    remarks = "; ".join(part for part in (remark, masked) if part)
    return f"{words} ({remarks})" if remarks else words


def measured_as(way: Way, kernels: Kernels | None) -> Ways:
    """Return what is measured of a way: how a weight becomes a product."""
    if way is Way.onednn:
        return {way: lambda weight: by_onednn(weight, None)}
    if way is Way.plain:
        return {way: lambda weight: lambda rows: nn.functional.linear(rows, weight)}
    assert kernels is not None
    if way is Way.tiles:
        return {
            Way.tiles: lambda weight: Panels.of(weight, None, kernels, 1).product,
            VECTORS: lambda weight: Panels.of(weight, None, kernels, NO_TILES).product,
        }
    return {way: lambda weight: Panels.of(weight, None, kernels).product}


def problem_of(way: Way, inputs: tuple[int, ...], dtype: torch.dtype, kernels: Kernels | None) -> str:
    """Return why a way is not used here; empty if it is one of those to choose from."""
    if way is Way.plain:
        return ""
    if way is Way.onednn:
        return packing_problem(dtype)
    if kernels is None:
        return "there are no compiled kernels"
    if way is Way.tiles and dtype != torch.bfloat16:
        return f"tiles multiply bfloat16, and these weights are {str(dtype).removeprefix('torch.')}"
    if way is Way.tiles and kernels.tiles_problem:
        return kernels.tiles_problem
    fitting = tuple(width for width in inputs if fits_panels(torch.empty(1, width, dtype=dtype), kernels))
    if not fitting:
        return "no weight fits in panels"
    return _difference(way, fitting, dtype, kernels)


@cache
def _difference(way: Way, inputs: tuple[int, ...], dtype: torch.dtype, kernels: Kernels) -> str:
    """Try products of our own beside torch: say by how much one is off; empty if that is only rounding.

    By tiles, each row must also have the bits that it has alone.
    """
    random = torch.Generator().manual_seed(0)
    for width in inputs:
        weight = torch.randn(TRIAL_OUTPUTS, width, generator=random).to(dtype)
        panels = Panels.of(
            weight, None, kernels, 2 if way is Way.tiles else 0
        )  # one row goes by vectors, more by tiles
        for count in TRIAL_ROWS:
            rows = torch.randn(count, width, generator=random).to(dtype)
            result, expected = panels.product(rows), nn.functional.linear(rows.float(), weight.float())
            off = float((result.float() - expected).abs().max() / expected.abs().max())
            what = f"its product of {count} rows by {TRIAL_OUTPUTS} x {width} is off by"
            if not off <= ALLOWED[dtype]:
                return f"{what} {off:.2g} of the largest number"
            if way is Way.tiles and not all(
                torch.equal(panels.product(row[None])[0], it) for row, it in zip(rows, result, strict=True)
            ):
                return f"{what} some bits from that of each row alone"
    return ""
