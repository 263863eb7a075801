"""Chooses the smallest batch size for which int8 matmuls use AMX tiles.

Integer sums are exact, so tiles give the same bits as vectors (VNNI), and any batch size may use
either. Where tiles work, they are checked against vectors and measured once (autotune.py).
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache

import torch
from torch import nn

from runner_base.notes import Note, note
from runner_engine.checkpoints.pass_memory import compute_quantized_workspace_nbytes
from runner_engine.kernels.c_interface import WeightFormat
from runner_engine.kernels.native import Kernels
from runner_engine.matmul.autotune import (
    TILES,
    BackendBenchmark,
    BackendCandidate,
    find_min_tile_batch_size,
    select_backend,
)
from runner_engine.matmul.backend_choice import (
    BackendChoice,
    BackendNaming,
    build_backend_choice_from_decision,
    build_tile_batch_size_note,
)
from runner_engine.matmul.backend_selection import FORCED, VECTORS, MatmulBackend, read_forced_matmul_backend
from runner_engine.matmul.int8_dynamic import quantizes_activations
from runner_engine.matmul.int8_stored import is_w8a8_layer
from runner_engine.matmul.interleaved_timing import (
    BackendTimings,
    Shape,
    shrink_shape_for_timing,
    time_backends_alternately,
)
from runner_engine.matmul.layer_weights import (
    QuantizedWeights,
    compute_shift_correction,
    multiply_with_kernel,
)
from runner_engine.matmul.onednn import MatmulFunction
from runner_engine.matmul.timing_cache import load_or_measure_timings

ROWS = (8, 16, 32, 128)  # up to 4 rows, weights are not even unpacked
FEWEST_TILE_ROWS = 16  # where nothing is measured
TRIAL_ROWS = (43, 16, 7)  # remainders of tiles
TRIAL_OUTPUTS = 80  # whole panels and a part of one
MAX_SECONDS = 0.1


def choose_int8_backend(model: nn.Module, kernels: Kernels | None) -> BackendChoice | None:
    """Select the backend for a model's layers with int8 activations.

    Returns None if the kernels support none of these layers.
    """
    layers = [
        module for module in model.modules() if isinstance(module, nn.Linear) and has_int8_activations(module)
    ]
    if not layers or kernels is None or not kernels.has_quantized:
        return None
    return choose_int8_backend_for_shapes(
        {(layer.out_features, layer.in_features) for layer in layers}, kernels
    )


def has_int8_activations(layer: nn.Linear) -> bool:
    """Whether a layer quantizes its activations to int8: LLM.int8(), int8_dynamic or W8A8."""
    return (
        is_w8a8_layer(layer)
        or quantizes_activations(layer)
        or any(one.__name__ == "Linear8bitLt" for one in type(layer).__mro__)
    )


def choose_int8_backend_for_shapes(shapes: Collection[Shape], kernels: Kernels) -> BackendChoice:
    forced = {MatmulBackend.tiles: TILES, MatmulBackend.panels: VECTORS}
    wanted, inputs = read_forced_matmul_backend(), tuple(sorted({inputs for _, inputs in shapes}))
    samples = {
        "{} x {}, int8".format(*shrink_shape_for_timing(shape)): shrink_shape_for_timing(shape)
        for shape in sorted(shapes)
    }

    def load_timings(backends: list[str]) -> BackendTimings | None:
        known = load_or_measure_timings(
            list(samples),
            backends,
            ROWS,
            kernels,
            lambda key, end: _time_int8_backends(samples[key], kernels, end),
            MAX_SECONDS,
        )
        if known is None:
            return None
        return {
            way: {count: sum(known[key][way][count] for key in samples) for count in ROWS} for way in backends
        }

    def find_fastest_backend(timings: BackendTimings) -> tuple[str, int]:
        tile_rows = find_min_tile_batch_size(timings[TILES], timings[VECTORS], ROWS, 0)
        return (TILES, tile_rows) if tile_rows else (VECTORS, 0)

    candidates = [
        BackendCandidate(
            TILES, kernels.tile_kernel_problem, lambda: _compare_tile_and_vector_matmuls(inputs, kernels)
        ),
        BackendCandidate(VECTORS),
    ]
    asked = None if wanted is None else forced.get(wanted)
    decision = select_backend(
        candidates, asked, BackendBenchmark(load_timings, find_fastest_backend, FEWEST_TILE_ROWS)
    )
    named = {
        TILES: lambda tile_rows: build_tile_batch_size_note(tile_rows, "VNNI"),
        VECTORS: lambda _: note("vnni"),
    }
    return build_backend_choice_from_decision(decision, BackendNaming(named, FORCED))


def _time_int8_backends(shape: Shape, kernels: Kernels, deadline: float) -> BackendTimings:
    random = torch.Generator().manual_seed(0)
    inputs = {
        count: torch.randn(count, shape[1], generator=random, dtype=torch.float32).bfloat16()
        for count in ROWS
    }
    ways = {
        TILES: _build_random_int8_matmul(shape, kernels, 1),
        VECTORS: _build_random_int8_matmul(shape, kernels, 0),
    }
    return time_backends_alternately(ways, inputs, deadline)


def _build_random_int8_matmul(shape: Shape, kernels: Kernels, tile_rows: int) -> MatmulFunction:
    outputs, inputs = shape
    random = torch.Generator().manual_seed(1)
    weight = torch.randint(-128, 128, shape, dtype=torch.int8, generator=random)
    weights = QuantizedWeights(WeightFormat.int8_dynamic, inputs, outputs, (torch.bfloat16,))
    weights.set_tensors_read_by_c(
        weight, None, torch.ones(outputs, dtype=torch.float32), compute_shift_correction(weight)
    )
    weights.matrix.tile_rows = tile_rows
    size = compute_quantized_workspace_nbytes(max(*ROWS, *TRIAL_ROWS), inputs, torch.get_num_threads())
    workspace = torch.empty(size, dtype=torch.uint8)
    return lambda rows: multiply_with_kernel(kernels, rows, weights, workspace)


@cache
def _compare_tile_and_vector_matmuls(input_sizes: tuple[int, ...], kernels: Kernels) -> Note | None:
    random = torch.Generator().manual_seed(2)
    for width in input_sizes:
        by_tiles, by_vectors = (
            _build_random_int8_matmul((TRIAL_OUTPUTS, width), kernels, tile_rows) for tile_rows in (1, 0)
        )
        for count in TRIAL_ROWS:
            rows = torch.randn(count, width, generator=random, dtype=torch.float32).bfloat16()
            if not torch.equal(by_tiles(rows), by_vectors(rows)):
                return note("bytes_differ", rows=count, outputs=TRIAL_OUTPUTS, inputs=width)
    return None
