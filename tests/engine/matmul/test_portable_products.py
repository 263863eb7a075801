"""Quantized products of processors without AVX-512's products of bytes, built here for such
processors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from library_layers import layer_of, row_int8, weight_int8
from portable_kernels import TARGETS, function_for, has_compiler, is_x86, product_by
from torch import nn

from runner_engine.devices.heap import HeapTrimmer
from runner_engine.matmul.quantized_layers import QuantizedLayers

BF16 = torch.bfloat16
COUNTS = (1, 2, 3, 7, 50)
# inputs, outputs, bias, threshold: whole registers and parts; no outlier, few, and many
LAYERS = [
    (192, 96, False, 6.0),
    (72, 50, False, 6.0),
    (1090, 70, True, 6.0),
    (130, 33, False, 0.5),
    (64, 32, True, 0.0),
]


def rows_of(count: int, inputs: int) -> torch.Tensor:
    rows = torch.randn(count, inputs, generator=torch.Generator().manual_seed(count))
    rows[-1, 5], rows[0, 7] = 60.0, -9.5
    rows[0, 9] = 1e-6  # below the normal numbers of float16
    rows[1:2] *= 0
    return rows.to(BF16)


def by_formula(layer: Any, rows: torch.Tensor) -> torch.Tensor:
    """LLM.int8() step by step: exact sums of bytes, columns with outliers apart, in the order of
    columns."""
    state, half = layer.state, rows.half().float()
    outliers = half.abs() >= state.threshold if state.threshold else torch.zeros_like(half, dtype=torch.bool)
    columns = outliers.any(0)
    top = half.masked_fill(outliers, 0).abs().amax(1, keepdim=True)
    numbers = (half * (1.0 / top * 127.0)).nan_to_num(0, 0, 0).round().masked_fill(columns, 0)
    sums = (numbers.double() @ state.CB.double().T).float()
    outputs = sums * (top * state.SCB.float()) * torch.tensor(6.200124e-05)
    if layer.bias is not None:
        outputs = outputs + layer.bias.float()
    if columns.any():
        weight = (state.CB.float() * state.SCB.float()[:, None] * torch.tensor(7.874015718698502e-3)).to(BF16)
        apart = torch.zeros(len(rows), layer.out_features)
        for column in (
            columns.nonzero().flatten().tolist()
        ):  # in 64 bits a product is exact, as in one fused operation
            product = rows[:, column, None].double() * weight[None, :, column].double()
            apart = (apart.double() + product).float()
        outputs = outputs.to(BF16).float() + apart
    return outputs.to(BF16)


@has_compiler
@is_x86
@pytest.mark.parametrize("target", TARGETS)
def test_llm_int8_has_the_bits_of_the_formula(target: str) -> None:
    function = function_for(target)
    for inputs, outputs, bias, threshold in LAYERS:
        layer = layer_of("int8", inputs, outputs, bias, threshold=threshold)
        own = layer.forward
        own(rows_of(2, inputs))  # the library rearranges its weights in the first pass
        weights = row_int8(layer)
        for count in COUNTS:
            rows = rows_of(count, inputs)
            found, library = product_by(function, rows, weights), own(rows).float()
            assert torch.equal(found, by_formula(layer, rows)), (target, inputs, outputs, threshold, count)
            assert ((found.float() - library).abs() <= library.abs() / 127 + 1e-4 * library.abs().max()).all()


@pytest.mark.thorough
@has_compiler
@is_x86
@pytest.mark.parametrize("target", TARGETS)
def test_weight_only_int8_has_the_bits_of_sums_in_their_order(target: str) -> None:
    """Sums go from one input to the next, each with one rounding, or two where the processor does
    not fuse them."""
    function = function_for(target)
    for inputs, outputs, bias in ((612, 64, True), (192, 96, False), (20, 32, False), (12, 64, True)):
        layer = layer_of("torchao_int8", inputs, outputs, bias)
        stored, weights = layer.weight, weight_int8(layer)
        scale = weights.tensors[-1]
        for count in COUNTS:
            rows = rows_of(count, inputs)
            sums = torch.zeros(count, outputs)
            for at in range(inputs):
                product = rows[:, at, None].double() * stored.qdata[None, :, at].double()
                sums = (sums.double() + (product if "v3" in target else product.float().double())).float()
            expected = sums.to(BF16).float() * scale.float()
            if bias:
                expected = expected.to(BF16).float() + layer.bias.float()
            found = product_by(function, rows, weights)
            assert torch.equal(found, expected.to(BF16)), (target, inputs, outputs, count)
            assert torch.equal(product_by(function, rows[-1:], weights)[0], found[-1])


@pytest.mark.parametrize("kind", ["int8", "torchao_int8"])
def test_nan_stays_nan_in_its_row(kind: str) -> None:
    layer = layer_of(kind, 64, 32, bias=False)
    QuantizedLayers(nn.ModuleList([nn.Embedding(1, 1, dtype=BF16), layer]), HeapTrimmer())
    rows = torch.ones(9, 64, dtype=BF16)
    rows[1, 3] = float("nan")
    found = layer(rows)
    assert found[1].isnan().all()
    assert found[0].isfinite().all()
