"""int8 weights and rows of a checkpoint (W8A8): every way to compute them has the bits of the
formula."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from int8_layers import KINDS, Kind, layer_of
from portable_kernels import TARGETS, function_for, has_compiler, is_x86, product_by
from refusals import refusal
from torch import nn

from runner_base.notes import note
from runner_engine.checkpoints.pass_memory import compute_quantized_workspace_nbytes
from runner_engine.devices.heap import HeapTrimmer
from runner_engine.kernels import native
from runner_engine.matmul import int8_stored
from runner_engine.matmul.layer_weights import multiply_with_kernel
from runner_engine.matmul.quantized_layers import QuantizedLayers
from runner_engine.models.grouped_linear import GroupedLinear
from runner_engine.models.layouts.int8 import Int8Layout

KERNELS = native.load_kernels()
has_kernels = pytest.mark.skipif(KERNELS is None, reason="there is no C compiler")
SHAPES = ((192, 96), (72, 50), (1090, 70), (130, 33), (3, 5))  # inputs, outputs
# panels shorter and longer than a single row prefetches ahead; whole cache lines and parts; outputs left over
FEW_ROWS_SHAPES = ((4160, 70), (513, 37), (256, 3), (1023, 129), (520, 64), (63, 34))
COUNTS = (1, 2, 4, 5, 12, 29, 200)


def rows_of(count: int, inputs: int, dtype: torch.dtype) -> torch.Tensor:
    """Rows of very different sizes: one with a large number, one that is nearly zero, one of
    zeros."""
    rows = torch.randn(count, inputs, generator=torch.Generator().manual_seed(count))
    rows[-1, 2] = 60
    rows[0] *= 1e-41 if count == 5 else 1  # below the normal numbers
    rows[1:2] *= count != 12
    return rows.to(dtype)


def by_formula(layer: GroupedLinear, rows: torch.Tensor) -> torch.Tensor:
    """The outputs: exact sums of the whole numbers of torch's way, times both scales, in
    float32."""
    layout, stored = layer.layout, layer.stored
    assert isinstance(layout, Int8Layout)
    numbers, scale = layout.quantize_activations(stored, rows)
    sums = (numbers.long() - layout.get_activation_zero_point(stored)) @ layer.weight.long().T
    factor = scale.float() * layout.scales(stored, 0, layer.out_features).float().flatten()
    outputs = sums.float() * factor
    if layer.bias is not None:
        outputs = outputs + layer.bias.float()
    return outputs.to(rows.dtype)


@pytest.mark.thorough
@has_kernels
@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("threads", [1, 2])
def test_every_way_gives_the_bits_of_the_formula(
    kind: Kind, dtype: torch.dtype, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert KERNELS is not None
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    for (inputs, outputs), has_bias in product(SHAPES, (False, True)):
        layer = layer_of(inputs, outputs, kind, dtype if has_bias else None)
        weights = int8_stored.build_kernel_weights(layer, 0)
        assert weights.tensors[0].data_ptr() == layer.weight.data_ptr(), "no copy"
        for count in COUNTS:
            rows = rows_of(count, inputs, dtype)
            workspace = torch.empty(
                compute_quantized_workspace_nbytes(count, inputs, threads), dtype=torch.uint8
            )
            expected = by_formula(layer, rows)
            found = multiply_with_kernel(KERNELS, rows, weights, workspace)
            assert torch.equal(found, expected), (inputs, outputs, has_bias, count)


@pytest.mark.sampled(1)
@has_compiler
@is_x86
@pytest.mark.parametrize("target", TARGETS)
def test_other_processors_have_the_same_bits(target: str) -> None:
    assert KERNELS is not None
    function = function_for(target)
    for kind, (inputs, outputs) in product(KINDS.values(), SHAPES):
        layer = layer_of(inputs, outputs, kind, torch.bfloat16)
        weights = int8_stored.build_kernel_weights(layer, 0)
        for count in COUNTS:
            rows = rows_of(count, inputs, torch.bfloat16)
            assert torch.equal(product_by(function, rows, weights), by_formula(layer, rows)), (
                kind,
                inputs,
                count,
            )


@has_kernels
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_few_rows_of_panels_of_any_size_have_the_bits_of_the_formula(count: int) -> None:
    """A single row reads weights in the order of memory, several rows read four outputs at a time."""
    assert KERNELS is not None
    for inputs, outputs in FEW_ROWS_SHAPES:
        layer = layer_of(inputs, outputs, KINDS["static with a zero point"])
        weights = int8_stored.build_kernel_weights(layer, 0)
        rows = rows_of(count, inputs, torch.float32)
        workspace = torch.empty(
            compute_quantized_workspace_nbytes(count, inputs, torch.get_num_threads()), dtype=torch.uint8
        )
        found = multiply_with_kernel(KERNELS, rows, weights, workspace)
        assert torch.equal(found, by_formula(layer, rows)), (inputs, outputs)


@has_compiler
@is_x86
@pytest.mark.parametrize("target", TARGETS)
def test_other_processors_have_the_bits_of_the_formula_for_a_single_row(target: str) -> None:
    function = function_for(target)
    for inputs, outputs in FEW_ROWS_SHAPES:
        layer = layer_of(inputs, outputs, KINDS["static with a zero point"], torch.bfloat16)
        rows = rows_of(1, inputs, torch.bfloat16)
        found = product_by(function, rows, int8_stored.build_kernel_weights(layer, 0))
        assert torch.equal(found, by_formula(layer, rows)), (target, inputs, outputs)


@has_kernels
@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_torchs_way_is_as_far_as_rounding_explains(kind: Kind) -> None:
    layer = layer_of(192, 96, kind)
    rows = torch.randn(40, 192, generator=torch.Generator().manual_seed(0)) * (kind.row_scale or 1) * 50
    expected = layer(rows)
    found = QuantizedLayers(nn.ModuleList([layer]), HeapTrimmer())
    assert (found.replaced_layers, found.left, found.notes) == ([layer], [], [])
    assert (layer(rows) - expected).abs().max() < 1e-5 * expected.abs().max()
    assert torch.equal(layer(rows[None])[0], layer(rows))


@has_kernels
@pytest.mark.parametrize("kind", ["dynamic", "static with a zero point"])
@pytest.mark.parametrize("count", [3, 40])
def test_a_row_does_not_depend_on_the_rows_beside_it(kind: str, count: int) -> None:
    layer = layer_of(192, 96, KINDS[kind], torch.bfloat16)
    QuantizedLayers(nn.ModuleList([nn.Embedding(1, 1, dtype=torch.bfloat16), layer]), HeapTrimmer())
    rows = rows_of(count, 192, torch.bfloat16)
    rows[1] *= 1000
    alone = torch.cat([layer(row[None]) for row in rows])
    assert torch.equal(layer(rows), alone)
    rows[2, 7] = float("nan")
    beside = layer(rows)
    assert beside[2].isnan().all()
    assert torch.equal(beside[:2], alone[:2])
    rows[2, 7] = float("inf")
    assert torch.equal(layer(rows)[2].isnan(), GroupedLinear.forward(layer, rows[2:3])[0].isnan())


@has_kernels
@pytest.mark.parametrize("zero_point", [None, 127, -128])
def test_sums_are_exact_at_the_ends_of_the_range(zero_point: int | None) -> None:
    assert KERNELS is not None
    inputs = int8_stored.MOST_INPUTS
    layer = layer_of(inputs, 3, Kind(0.5, zero_point))
    layer.weight.data.fill_(-128)
    weights = int8_stored.build_kernel_weights(layer, 0)
    workspace = torch.empty(
        compute_quantized_workspace_nbytes(5, inputs, torch.get_num_threads()), dtype=torch.uint8
    )
    for sign in (1, -1):
        rows = torch.full((5, inputs), sign * 1e9)
        assert torch.equal(multiply_with_kernel(KERNELS, rows, weights, workspace), by_formula(layer, rows))


@has_kernels
def test_what_is_left_to_torch() -> None:
    wide = layer_of(int8_stored.MOST_INPUTS + 8, 2, Kind())
    odd = layer_of(64, 32, Kind(), torch.float16)
    rows = torch.randn(3, wide.in_features, generator=torch.Generator().manual_seed(0))
    expected = wide(rows)
    found = QuantizedLayers(nn.ModuleList([wide, odd]), HeapTrimmer())
    assert (found.replaced_layers, list(found.matrices), found.left) == ([wide], [], [odd])
    by_torch = note("multiplied_by_torch", what="GroupedLinear")
    assert found.notes == [
        note("slow_rounding", kind="Int8Linear", reason=note("too_many_inputs", most=65536)),
        note("slow_rounding", kind="Int8Linear", reason=note("other_bias_format")),
        note("slow_layers", instead=by_torch, reason=note("other_bias_format")),
    ]
    assert (wide(rows) - expected).abs().max() < 1e-4 * expected.abs().max()


@has_kernels
def test_what_c_refuses() -> None:
    assert KERNELS is not None
    layer, rows = layer_of(64, 32, Kind(0.5, 3)), torch.ones(2, 64)
    workspace = torch.empty(
        compute_quantized_workspace_nbytes(2, 64, torch.get_num_threads()), dtype=torch.uint8
    )
    for field, value in {"zero_point": 128, "row_scale": 0, "constants": None}.items():
        weights = int8_stored.build_kernel_weights(layer, 0)
        multiply_with_kernel(KERNELS, rows, weights, workspace)
        setattr(weights.matrix, field, value)
        with pytest.raises(IndexError, match=refusal("WRONG_MATRIX")):
            multiply_with_kernel(KERNELS, rows, weights, workspace)
