"""From how many rows on bytes are multiplied by tiles (AMX): quantized layers whose rows are bytes,
too.

Sums of bytes are exact, so tiles give the bits of vectors (VNNI), and any number of rows may go by
either. Where tiles work, they are tried beside vectors and measured once (autotune.py).
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache

import torch
from torch import nn

from runner_base.notes import Note, note
from runner_engine.checkpoints.pass_memory import quantized_workspace_bytes
from runner_engine.kernels.native import Kernels
from runner_engine.kernels.shared_numbers import WeightFormat
from runner_engine.matmul.autotune import TILES, Candidate, Contest, decide, fewest_faster_rows
from runner_engine.matmul.choice import Choice, Naming, choice_of, describe_tiles
from runner_engine.matmul.int8_dynamic import is_dynamic
from runner_engine.matmul.int8_stored import is_of_bytes
from runner_engine.matmul.kept_seconds import kept
from runner_engine.matmul.matrices import QuantizedWeights, multiply, shifted_sums
from runner_engine.matmul.measured import Seconds, Shape, by_turns, sample_of
from runner_engine.matmul.onednn import Product
from runner_engine.matmul.products import FORCED, VECTORS, Way, requested

ROWS = (8, 16, 32, 128)  # up to 4 rows, weights are not even unpacked
FEWEST_TILE_ROWS = 16  # where nothing is measured
TRIAL_ROWS = (43, 16, 7)  # remainders of tiles
TRIAL_OUTPUTS = 80  # whole panels and a part of one
MAX_SECONDS = 0.1


def choose_bytes(model: nn.Module, kernels: Kernels | None) -> Choice | None:
    """Return the way for a model's layers of bytes; None where it has none, or the kernels do not
    multiply them."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear) and has_byte_rows(module)]
    if not layers or kernels is None or not kernels.has_quantized:
        return None
    return choose({(layer.out_features, layer.in_features) for layer in layers}, kernels)


def has_byte_rows(layer: nn.Linear) -> bool:
    """Whether a layer is quantized so that its rows become bytes: LLM.int8(), int8_dynamic and W8A8
    of a checkpoint."""
    return (
        is_of_bytes(layer)
        or is_dynamic(layer)
        or any(one.__name__ == "Linear8bitLt" for one in type(layer).__mro__)
    )


def choose(shapes: Collection[Shape], kernels: Kernels) -> Choice:
    """Return the way for layers of these shapes."""
    forced = {Way.tiles: TILES, Way.panels: VECTORS}
    wanted, inputs = requested(), tuple(sorted({inputs for _, inputs in shapes}))
    samples = {"{} x {}, int8".format(*sample_of(shape)): sample_of(shape) for shape in sorted(shapes)}

    def measured(ways: list[str]) -> Seconds | None:
        known = kept(
            list(samples),
            ways,
            ROWS,
            kernels,
            lambda key, end: _measure(samples[key], kernels, end),
            MAX_SECONDS,
        )
        if known is None:
            return None
        return {
            way: {count: sum(known[key][way][count] for key in samples) for count in ROWS} for way in ways
        }

    def fastest(took: Seconds) -> tuple[str, int]:
        tile_rows = fewest_faster_rows(took[TILES], took[VECTORS], ROWS, 0)
        return (TILES, tile_rows) if tile_rows else (VECTORS, 0)

    candidates = [
        Candidate(TILES, kernels.tiles_problem, lambda: _difference(inputs, kernels)),
        Candidate(VECTORS),
    ]
    asked = None if wanted is None else forced.get(wanted)
    decision = decide(candidates, asked, Contest(measured, fastest, FEWEST_TILE_ROWS))
    named = {TILES: lambda tile_rows: describe_tiles(tile_rows, "VNNI"), VECTORS: lambda _: note("vnni")}
    return choice_of(decision, Naming(named, FORCED))


def _measure(shape: Shape, kernels: Kernels, deadline: float) -> Seconds:
    random = torch.Generator().manual_seed(0)
    inputs = {
        count: torch.randn(count, shape[1], generator=random, dtype=torch.float32).bfloat16()
        for count in ROWS
    }
    ways = {TILES: _product(shape, kernels, 1), VECTORS: _product(shape, kernels, 0)}
    return by_turns(ways, inputs, deadline)


def _product(shape: Shape, kernels: Kernels, tile_rows: int) -> Product:
    """Return a product with random bytes, by tiles from so many rows on."""
    outputs, inputs = shape
    random = torch.Generator().manual_seed(1)
    weight = torch.randint(-128, 128, shape, dtype=torch.int8, generator=random)
    weights = QuantizedWeights(WeightFormat.int8_dynamic, inputs, outputs, (torch.bfloat16,))
    weights.point_at(weight, None, torch.ones(outputs, dtype=torch.float32), shifted_sums(weight))
    weights.matrix.tile_rows = tile_rows
    size = quantized_workspace_bytes(max(*ROWS, *TRIAL_ROWS), inputs, torch.get_num_threads())
    workspace = torch.empty(size, dtype=torch.uint8)
    return lambda rows: multiply(kernels, rows, weights, workspace)


@cache
def _difference(inputs: tuple[int, ...], kernels: Kernels) -> Note | None:
    """Try tiles beside vectors: return for which product they differ in any bit; None if they never
    do."""
    random = torch.Generator().manual_seed(2)
    for width in inputs:
        by_tiles, by_vectors = (_product((TRIAL_OUTPUTS, width), kernels, tile_rows) for tile_rows in (1, 0))
        for count in TRIAL_ROWS:
            rows = torch.randn(count, width, generator=random, dtype=torch.float32).bfloat16()
            if not torch.equal(by_tiles(rows), by_vectors(rows)):
                return note("bytes_differ", rows=count, outputs=TRIAL_OUTPUTS, inputs=width)
    return None
