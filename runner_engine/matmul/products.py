"""Which way a model's products are computed on this processor (autotune.py).

Each way that works here multiplies samples of the model's weights by few, some and many rows, and
the fastest is chosen for the whole model. Before that each way is tried beside torch. Weights that
are first unpacked to bfloat16 – those of 4 bits, and those of 8 whose rows stay numbers: in groups,
in blocks of a .gguf file, of torchao – are multiplied as plain ones are, some inputs of a panel at
a time. So what is measured of plain weights decides there, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from functools import cache
from typing import Any

import torch
from torch import nn

from runner_base.notes import Note, note
from runner_base.processor import LEFT_OUT, left_out
from runner_engine.kernels.native import FORMATS, Kernels
from runner_engine.kernels.shared_numbers import NO_TILES
from runner_engine.matmul.autotune import TIE, Candidate, Contest, decide, fastest_way
from runner_engine.matmul.choice import Choice, Naming, choice_of, describe_tiles, requested_way
from runner_engine.matmul.int8_dynamic import is_dynamic
from runner_engine.matmul.kept_seconds import kept_seconds
from runner_engine.matmul.measured import Seconds, Ways
from runner_engine.matmul.onednn import Product, by_onednn, packing_problem
from runner_engine.matmul.panels import Panels, fits_panels
from runner_engine.models.gguf_blocks import GgufLinear
from runner_engine.models.grouped import GroupedLinear
from runner_engine.models.lora.inside import is_adapted_inside

FORCED = "RUNNER_PRODUCTS"


class Way(StrEnum):
    """How products are computed. Of equally fast ways the first is used; a missing one is replaced
    by the next."""

    tiles = "tiles"
    panels = "panels"
    onednn = "onednn"
    plain = "plain"


OWN = (Way.tiles, Way.panels)
VECTORS = "vectors"  # in the measurements: those that sum in the order of tiles
# Of the passes that a job is expected to have, so many have these rows: its last rows, some, and
# many or a prompt
PASSES = {4: 1, 16: 2, 128: 2}
# Only with our own products does a pass run in a single call, which makes a question 1.31 times as
# fast (bench/engine_ladder.py): others have to make up for that.
SINGLE_CALL = 1.3
FEWEST_TILE_ROWS = (
    8  # where tiles are forced and not measured; their instructions take as long for one row as for 16
)
TRIAL_ROWS = (33, 16, 5, 1)  # remainders of tiles and of registers
TRIAL_OUTPUTS = 80  # whole panels and a part of one
# of the largest result: rounding, and other orders of sums
ALLOWED = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
# codes of problems of a way that is here, and computes something else
WRONG_RESULTS = ("product_off", "product_bits_off", "tiles_inexact")


def product_of(
    choice: Choice,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    kernels: Kernels | None,
    release: Callable[[int, int], None] | None = None,
) -> Panels | Product | None:
    """Return the product with a weight, packed; None where it stays as it is.

    A weight that does not fit in panels is packed by oneDNN, if that is possible. release: as of
    Panels.
    """
    if kernels is not None and choice.way in OWN and fits_panels(weight, kernels):
        return Panels.of(weight, bias, kernels, choice.tile_rows, release)
    return None if choice.way == Way.plain or packing_problem(weight.dtype) else by_onednn(weight, bias)


def requested() -> Way | None:
    """Return the way that RUNNER_PRODUCTS forces; ConfigError where it is none."""
    way = requested_way(FORCED, list(Way))
    return None if way is None else Way(way)


def choose_plain(
    layers: Iterable[Any], dtype: torch.dtype, kernels: Kernels | None, is_small: bool = False
) -> Choice:
    """Return the way for the layers of a model with weights of this dtype.

    is_small: a model whose products take less time than a pass saves in a single call, which needs
    our own products.
    """
    matrices = [matrix_of(layer) for layer in layers]
    shapes = Counter((len(matrix), matrix.shape[1]) for matrix in matrices if matrix.dtype == dtype)
    return choose_for(shapes, dtype, kernels, is_small)


def choose_for(
    shapes: Mapping[tuple[int, int], int], dtype: torch.dtype, kernels: Kernels | None, is_own: bool
) -> Choice:
    """Return the way for so many layers of each shape (outputs and inputs).

    is_own: by products of our own, if there are any here.
    """
    inputs, wanted = tuple(sorted({inputs for _, inputs in shapes})), requested()
    problems = {way: problem_of(way, inputs, dtype, kernels) for way in Way}
    left = [way for way in Way if not problems[way]]
    if wanted is None and is_own and any(way in OWN for way in left):
        left = [way for way in left if way in OWN]
    elif wanted is None and (kernels is None or left[0] is Way.onednn):
        left = left[:1]  # nothing keeps a measurement, or nothing of ours is here
    vectors = "" if kernels is None else kernels.vectors_for(dtype)
    named: dict[str, Callable[[int], Note]] = {
        Way.tiles: lambda tile_rows: describe_tiles(tile_rows, vectors, "by "),
        Way.panels: lambda _: note("panels", vectors=vectors),
        Way.onednn: lambda _: note("onednn_packed"),
        Way.plain: lambda _: note("torch_unpacked"),
    }

    def candidate(way: Way) -> Candidate:
        problem = problems[way]
        if problem is not None and problem.code in WRONG_RESULTS:
            return Candidate(way, None, lambda: problem)
        return Candidate(way, problem)

    def measured(ways: list[str]) -> Seconds | None:
        assert kernels is not None
        rows = sorted({*PASSES, FEWEST_TILE_ROWS}) if Way.tiles in ways else sorted(PASSES)
        makers: Ways = {}
        for way in ways:
            makers |= measured_as(Way(way), kernels)
        known = kept_seconds(makers, list(shapes), rows, dtype, kernels)
        if known is None:
            return None
        return {
            way: {
                count: sum(known[shape][way][count] * layers for shape, layers in shapes.items())
                for count in rows
            }
            for way in makers
        }

    candidates = [candidate(way) for way in Way if problems[way] or way in left]
    decision = decide(candidates, wanted, Contest(measured, _fastest, FEWEST_TILE_ROWS))
    remark = note("left_out", variable=LEFT_OUT, names=",".join(left_out())) if left_out() else None
    return choice_of(decision, Naming(named, FORCED, remark=remark))


def _fastest(took: Seconds) -> tuple[str, int]:
    """Return the fastest way and its tile_rows."""

    def advantage(best: str, way: str) -> float:
        return SINGLE_CALL if best in OWN and way not in OWN else TIE

    return fastest_way(took, VECTORS, PASSES, advantage)


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


def problem_of(way: Way, inputs: tuple[int, ...], dtype: torch.dtype, kernels: Kernels | None) -> Note | None:
    """Return why a way is not used here; None if it is one of those to choose from."""
    if way is Way.plain:
        return None
    if way is Way.onednn:
        return packing_problem(dtype)
    if kernels is None:
        return note("no_compiled_kernels")
    if way is Way.tiles and dtype != torch.bfloat16:
        return note("weights_not_bfloat16", dtype=str(dtype).removeprefix("torch."))
    if way is Way.tiles and kernels.tiles_problem:
        return kernels.tiles_problem
    fitting = tuple(width for width in inputs if fits_panels(torch.empty(1, width, dtype=dtype), kernels))
    if not fitting:
        return note("no_weight_fits_panels")
    return _difference(way, fitting, dtype, kernels)


@cache
def _difference(way: Way, inputs: tuple[int, ...], dtype: torch.dtype, kernels: Kernels) -> Note | None:
    """Try products of our own beside torch: return by how much one is off; None if that is only
    rounding.

    By tiles, each row must also have the bits that it has alone.
    """
    random = torch.Generator().manual_seed(0)
    for width in inputs:
        weight = torch.randn(TRIAL_OUTPUTS, width, generator=random, dtype=torch.float32).to(dtype)
        # one row goes by vectors, more by tiles
        panels = Panels.of(weight, None, kernels, 2 if way is Way.tiles else 0)
        for count in TRIAL_ROWS:
            rows = torch.randn(count, width, generator=random, dtype=torch.float32).to(dtype)
            result, expected = (panels.product(rows), nn.functional.linear(rows.float(), weight.float()))
            off = float((result.float() - expected).abs().max() / expected.abs().max())
            if not off <= ALLOWED[dtype]:
                return note("product_off", rows=count, outputs=TRIAL_OUTPUTS, inputs=width, off=off)
            if way is Way.tiles and not all(
                torch.equal(panels.product(row[None])[0], it) for row, it in zip(rows, result, strict=True)
            ):
                return note("product_bits_off", rows=count, outputs=TRIAL_OUTPUTS, inputs=width)
    return None


def choose_unpacked(model: nn.Module, kernels: Kernels | None) -> Choice | None:
    """Return the way of a model's weights that are unpacked first, where it is by tiles; None
    elsewhere."""
    if kernels is None or kernels.tiles_problem:
        return None
    layers = [module for module in model.modules() if isinstance(module, nn.Linear) and is_unpacked(module)]
    shapes = Counter((layer.out_features, layer.in_features) for layer in layers)
    if not shapes:
        return None
    choice = choose_for(shapes, torch.bfloat16, kernels, is_own=True)
    return choice if choice.way == Way.tiles else None


def is_unpacked(layer: nn.Linear) -> bool:
    """Whether the kernels unpack a layer's weights to multiply them by rows of numbers."""
    if isinstance(layer, GgufLinear | GroupedLinear):
        return not layer.has_byte_rows
    is_int8 = type(layer.weight).__name__ == "Int8Tensor" and not is_dynamic(layer)
    return is_int8 or any(one.__name__ == "Linear4bit" for one in type(layer).__mro__)


def is_plain(layer: nn.Linear) -> bool:
    """Whether it is torch's own layer with a plain matrix: quantized layers are subclasses or hold
    other tensors."""
    weight = layer.weight
    is_torch_own = type(layer) is nn.Linear and type(weight) in (nn.Parameter, torch.Tensor)
    return is_torch_own and weight.device.type == "cpu" and weight.dtype in FORMATS


def is_transposed(layer: Any) -> bool:
    """Whether it is GPT-2's linear layer with a plain matrix, which lies the other way round."""
    if type(layer).__name__ != "Conv1D" or type(layer.weight) not in (nn.Parameter, torch.Tensor):
        return False
    return bool(
        layer.weight.dim() == 2 and layer.weight.device.type == "cpu" and layer.weight.dtype in FORMATS
    )


def matrix_of(layer: Any) -> torch.Tensor:
    """Return the matrix [outputs, inputs] of a layer with a plain one."""
    weight: torch.Tensor = layer.weight
    return weight.T if is_transposed(layer) else weight


def plain_layers(model: nn.Module) -> list[Any]:
    """Return the linear layers of a model whose weights are plain matrices."""
    layers = (layer for layer in model.modules() if not is_adapted_inside(layer))
    return [
        layer
        for layer in layers
        if is_transposed(layer) or (isinstance(layer, nn.Linear) and is_plain(layer))
    ]
