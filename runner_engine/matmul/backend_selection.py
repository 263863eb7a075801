"""Selects the matmul backend for a model on this processor.

Each working backend multiplies samples of the model's weights with small, medium and large
batches, and the fastest is used for the whole model. Before that each is checked against torch.
Weights that are first unpacked to bfloat16 – those of 4 bits, and those of 8 with unquantized
activations: in groups, in blocks of a .gguf file, of torchao – are multiplied like plain ones,
a few inputs at a time. So plain timings decide for them, too.
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
from runner_base.processor import LEFT_OUT, parse_disabled_cpu_features
from runner_engine.kernels.c_interface import NO_TILES
from runner_engine.kernels.native import FORMATS, Kernels
from runner_engine.matmul.autotune import (
    TIE,
    BackendBenchmark,
    BackendCandidate,
    find_fastest_backend,
    select_backend,
)
from runner_engine.matmul.backend_choice import (
    BackendChoice,
    BackendNaming,
    build_backend_choice_from_decision,
    build_tile_batch_size_note,
    read_forced_backend,
)
from runner_engine.matmul.int8_dynamic import quantizes_activations
from runner_engine.matmul.interleaved_timing import BackendTimings, MatmulBuilders
from runner_engine.matmul.onednn import MatmulFunction, build_onednn_matmul, find_onednn_problem
from runner_engine.matmul.plain_packing import PlainPackedWeights, can_pack_weight
from runner_engine.matmul.timing_cache import load_layer_timings
from runner_engine.models.gguf_blocks import GgufLinear
from runner_engine.models.grouped_linear import GroupedLinear
from runner_engine.models.lora.adapted_parameters import has_adapted_parameters

FORCED = "RUNNER_PRODUCTS"


class MatmulBackend(StrEnum):
    """Matmul backends in order of preference.

    If a backend is unavailable, the next one replaces it.
    """

    tiles = "tiles"
    panels = "panels"
    onednn = "onednn"
    plain = "plain"


OWN = (MatmulBackend.tiles, MatmulBackend.panels)
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


def build_packed_matmul(
    backend_choice: BackendChoice,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    kernels: Kernels | None,
    release_pages: Callable[[int, int], None] | None = None,
) -> PlainPackedWeights | MatmulFunction | None:
    """Pack a weight for the selected backend and return its matmul function.

    Returns None for a weight that stays unpacked.

    A weight that the kernels cannot pack is packed by oneDNN, if possible. release_pages: as in
    PlainPackedWeights.pack.
    """
    if kernels is not None and backend_choice.way in OWN and can_pack_weight(weight, kernels):
        return PlainPackedWeights.pack(weight, bias, kernels, backend_choice.tile_rows, release_pages)
    return (
        None
        if backend_choice.way == MatmulBackend.plain or find_onednn_problem(weight.dtype)
        else build_onednn_matmul(weight, bias)
    )


def read_forced_matmul_backend() -> MatmulBackend | None:
    way = read_forced_backend(FORCED, list(MatmulBackend))
    return None if way is None else MatmulBackend(way)


def choose_unquantized_backend(
    layers: Iterable[Any], dtype: torch.dtype, kernels: Kernels | None, is_small_model: bool = False
) -> BackendChoice:
    """Select the matmul backend for a model's unquantized layers with this dtype.

    is_small_model: the model's matmuls take less time than a fused forward saves, which needs our own
    kernels.
    """
    matrices = [get_weight_matrix(layer) for layer in layers]
    shapes = Counter((len(matrix), matrix.shape[1]) for matrix in matrices if matrix.dtype == dtype)
    return choose_backend_for_shapes(shapes, dtype, kernels, is_small_model)


def choose_backend_for_shapes(
    layers_by_shape: Mapping[tuple[int, int], int],
    dtype: torch.dtype,
    kernels: Kernels | None,
    prefers_own_kernels: bool,
) -> BackendChoice:
    """Select the matmul backend for layers with these shapes (outputs, inputs).

    layers_by_shape gives the number of layers per shape. prefers_own_kernels: choose among our
    own kernels, if any works.
    """
    inputs, wanted = tuple(sorted({inputs for _, inputs in layers_by_shape})), read_forced_matmul_backend()
    problems = {way: find_backend_problem(way, inputs, dtype, kernels) for way in MatmulBackend}
    left = [way for way in MatmulBackend if not problems[way]]
    if wanted is None and prefers_own_kernels and any(way in OWN for way in left):
        left = [way for way in left if way in OWN]
    elif wanted is None and (kernels is None or left[0] is MatmulBackend.onednn):
        left = left[:1]  # nothing keeps a measurement, or nothing of ours is here
    vectors = "" if kernels is None else kernels.name_vector_instructions(dtype)
    named: dict[str, Callable[[int], Note]] = {
        MatmulBackend.tiles: lambda tile_rows: build_tile_batch_size_note(tile_rows, vectors, "by "),
        MatmulBackend.panels: lambda _: note("panels", vectors=vectors),
        MatmulBackend.onednn: lambda _: note("onednn_packed"),
        MatmulBackend.plain: lambda _: note("torch_unpacked"),
    }

    def build_backend_candidate(backend: MatmulBackend) -> BackendCandidate:
        problem = problems[backend]
        if problem is not None and problem.code in WRONG_RESULTS:
            return BackendCandidate(backend, None, lambda: problem)
        return BackendCandidate(backend, problem)

    def load_timings(backends: list[str]) -> BackendTimings | None:
        assert kernels is not None
        rows = sorted({*PASSES, FEWEST_TILE_ROWS}) if MatmulBackend.tiles in backends else sorted(PASSES)
        makers: MatmulBuilders = {}
        for way in backends:
            makers |= get_matmul_builders(MatmulBackend(way), kernels)
        known = load_layer_timings(makers, list(layers_by_shape), rows, dtype, kernels)
        if known is None:
            return None
        return {
            way: {
                count: sum(known[shape][way][count] * layers for shape, layers in layers_by_shape.items())
                for count in rows
            }
            for way in makers
        }

    candidates = [build_backend_candidate(way) for way in MatmulBackend if problems[way] or way in left]
    decision = select_backend(
        candidates, wanted, BackendBenchmark(load_timings, _find_fastest_backend, FEWEST_TILE_ROWS)
    )
    remark = (
        note("left_out", variable=LEFT_OUT, names=",".join(parse_disabled_cpu_features()))
        if parse_disabled_cpu_features()
        else None
    )
    return build_backend_choice_from_decision(decision, BackendNaming(named, FORCED, remark=remark))


def _find_fastest_backend(timings: BackendTimings) -> tuple[str, int]:
    def get_required_speedup(best: str, backend: str) -> float:
        return SINGLE_CALL if best in OWN and backend not in OWN else TIE

    return find_fastest_backend(timings, VECTORS, PASSES, get_required_speedup)


def get_matmul_builders(backend: MatmulBackend, kernels: Kernels | None) -> MatmulBuilders:
    """Return functions that build the matmuls to be timed for a backend, by timing name."""
    if backend is MatmulBackend.onednn:
        return {backend: lambda weight: build_onednn_matmul(weight, None)}
    if backend is MatmulBackend.plain:
        return {backend: lambda weight: lambda rows: nn.functional.linear(rows, weight)}
    assert kernels is not None
    if backend is MatmulBackend.tiles:
        return {
            MatmulBackend.tiles: lambda weight: PlainPackedWeights.pack(weight, None, kernels, 1).matmul,
            VECTORS: lambda weight: PlainPackedWeights.pack(weight, None, kernels, NO_TILES).matmul,
        }
    return {backend: lambda weight: PlainPackedWeights.pack(weight, None, kernels).matmul}


def find_backend_problem(
    backend: MatmulBackend, input_sizes: tuple[int, ...], dtype: torch.dtype, kernels: Kernels | None
) -> Note | None:
    """Return the reason why a backend cannot be used on this machine, or None if it can."""
    if backend is MatmulBackend.plain:
        return None
    if backend is MatmulBackend.onednn:
        return find_onednn_problem(dtype)
    if kernels is None:
        return note("no_compiled_kernels")
    if backend is MatmulBackend.tiles and dtype != torch.bfloat16:
        return note("weights_not_bfloat16", dtype=str(dtype).removeprefix("torch."))
    if backend is MatmulBackend.tiles and kernels.tile_kernel_problem:
        return kernels.tile_kernel_problem
    fitting = tuple(
        width for width in input_sizes if can_pack_weight(torch.empty(1, width, dtype=dtype), kernels)
    )
    if not fitting:
        return note("no_weight_fits_panels")
    return _compare_with_torch(backend, fitting, dtype, kernels)


@cache
def _compare_with_torch(
    backend: MatmulBackend, input_sizes: tuple[int, ...], dtype: torch.dtype, kernels: Kernels
) -> Note | None:
    """Compare the matmuls of our kernels with torch.

    Returns a note if results differ by more than rounding errors, otherwise None.

    With tiles, each activation must also give the same bits as alone.
    """
    random = torch.Generator().manual_seed(0)
    for width in input_sizes:
        weight = torch.randn(TRIAL_OUTPUTS, width, generator=random, dtype=torch.float32).to(dtype)
        # one row goes by vectors, more by tiles
        panels = PlainPackedWeights.pack(weight, None, kernels, 2 if backend is MatmulBackend.tiles else 0)
        for count in TRIAL_ROWS:
            rows = torch.randn(count, width, generator=random, dtype=torch.float32).to(dtype)
            result, expected = (panels.matmul(rows), nn.functional.linear(rows.float(), weight.float()))
            off = float((result.float() - expected).abs().max() / expected.abs().max())
            if not off <= ALLOWED[dtype]:
                return note("product_off", rows=count, outputs=TRIAL_OUTPUTS, inputs=width, off=off)
            if backend is MatmulBackend.tiles and not all(
                torch.equal(panels.matmul(row[None])[0], it) for row, it in zip(rows, result, strict=True)
            ):
                return note("product_bits_off", rows=count, outputs=TRIAL_OUTPUTS, inputs=width)
    return None


def choose_backend_for_unpacked_weights(model: nn.Module, kernels: Kernels | None) -> BackendChoice | None:
    """Select the matmul backend for quantized weights that are unpacked to bfloat16.

    Returns None unless AMX tiles are chosen.
    """
    if kernels is None or kernels.tile_kernel_problem:
        return None
    layers = [
        module
        for module in model.modules()
        if isinstance(module, nn.Linear) and unpacks_weights_to_bfloat16(module)
    ]
    shapes = Counter((layer.out_features, layer.in_features) for layer in layers)
    if not shapes:
        return None
    choice = choose_backend_for_shapes(shapes, torch.bfloat16, kernels, prefers_own_kernels=True)
    return choice if choice.way == MatmulBackend.tiles else None


def unpacks_weights_to_bfloat16(layer: nn.Linear) -> bool:
    """Whether the kernels unpack a layer's weights to bfloat16.

    They do so if the layer's activations are not quantized.
    """
    if isinstance(layer, GgufLinear | GroupedLinear):
        return not layer.has_byte_rows
    is_int8 = type(layer.weight).__name__ == "Int8Tensor" and not quantizes_activations(layer)
    return is_int8 or any(one.__name__ == "Linear4bit" for one in type(layer).__mro__)


# subclasses of nn.Linear with a forward pass of their own that computes the same
SAME_AS_LINEAR = frozenset({"FalconLinear"})


def has_linear_class(layer: nn.Module) -> bool:
    """Whether a layer's class is torch's linear layer, or computes the same."""
    return type(layer) is nn.Linear or type(layer).__name__ in SAME_AS_LINEAR


def is_unquantized_linear(layer: nn.Linear) -> bool:
    """Whether a layer is a linear layer of torch or Falcon with an unquantized weight on the CPU."""
    weight = layer.weight
    is_torch_own = has_linear_class(layer) and type(weight) in (nn.Parameter, torch.Tensor)
    return is_torch_own and weight.device.type == "cpu" and weight.dtype in FORMATS


def is_transposed_linear(layer: Any) -> bool:
    """Whether a layer is GPT-2's Conv1D, which stores its unquantized weight transposed."""
    if type(layer).__name__ != "Conv1D" or type(layer.weight) not in (nn.Parameter, torch.Tensor):
        return False
    return bool(
        layer.weight.dim() == 2 and layer.weight.device.type == "cpu" and layer.weight.dtype in FORMATS
    )


def get_weight_matrix(layer: Any) -> torch.Tensor:
    weight: torch.Tensor = layer.weight
    return weight.T if is_transposed_linear(layer) else weight


def find_unquantized_layers(model: nn.Module) -> list[Any]:
    layers = (layer for layer in model.modules() if not has_adapted_parameters(layer))
    return [
        layer
        for layer in layers
        if is_transposed_linear(layer) or (isinstance(layer, nn.Linear) and is_unquantized_linear(layer))
    ]
