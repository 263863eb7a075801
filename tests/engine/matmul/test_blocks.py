"""Products with the blocks of a .gguf file equal those with its unpacked weights bit for bit, for
any number of rows."""

from __future__ import annotations

import ctypes

import pytest
import torch
from gguf_blocks import block_layer as layer_of
from group_layers import rows_of
from refusals import refusal
from torch import nn

from runner_engine.devices.heap import HeapTrimmer
from runner_engine.kernels import native
from runner_engine.kernels.matrix_structures import Matrix
from runner_engine.matmul.blocks import GgufWeights
from runner_engine.matmul.layer_weights import MatmulWorkspace, multiply_with_kernel
from runner_engine.matmul.plain_packing import PlainPackedWeights
from runner_engine.matmul.quantized_layers import QuantizedLayers
from runner_engine.models.gguf_blocks import GgufEmbedding, GgufLinear
from runner_engine.models.gguf_types import TYPES, dequantize_blocks
from runner_engine.models.grouped_linear import round_activations_to_int8

KERNELS = native.load_kernels()
has_kernels = pytest.mark.skipif(KERNELS is None, reason="the kernels are not built here")
DTYPES = (torch.float32, torch.bfloat16)


@has_kernels
@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_products_are_those_of_the_unpacked_weights(name: str, dtype: torch.dtype) -> None:
    assert KERNELS is not None
    outputs, inputs = 75, 768  # a panel that is not full, and several strips
    layer = layer_of(name, outputs, inputs, ordered=False)
    weight = dequantize_blocks(layer.get_weight_blocks(0, outputs), name, inputs).to(dtype)
    ours, plain = (
        GgufWeights.from_layer(layer, KERNELS, MatmulWorkspace()),
        PlainPackedWeights.pack(weight, None, KERNELS),
    )
    whole = ours.matmul(rows := rows_of(250, inputs, dtype))
    assert torch.equal(whole, plain.matmul(rows))
    for count in (1, 4, 7, 50):
        assert torch.equal(ours.matmul(rows[:count]), whole[:count])


@has_kernels
def test_what_the_kernel_refuses() -> None:
    assert KERNELS is not None
    ours = GgufWeights.from_layer(layer_of("Q4_K", 32, 256), KERNELS, MatmulWorkspace())
    ours.matrix.block = 99  # no such type
    with pytest.raises(IndexError, match=refusal("WRONG_MATRIX")):
        ours.matmul(torch.ones(1, 256))
    ours.matrix.block, ours.inputs = TYPES["Q4_K"].number, 128  # half a block
    with pytest.raises(IndexError, match=refusal("WRONG_MATRIX")):
        multiply_with_kernel(KERNELS, torch.ones(1, 128), ours)
    assert ctypes.sizeof(Matrix) == ctypes.sizeof(ours.matrix)


@has_kernels
@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_an_embedding_are_those_of_the_unpacked_weights(name: str, dtype: torch.dtype) -> None:
    assert KERNELS is not None
    layer = layer_of(name, outputs := 75, 768)
    weight = dequantize_blocks(layer.get_weight_blocks(0, outputs), name, 768).to(dtype)
    chosen = torch.tensor([[0, 74, 31], [32, 5, 5]])
    assert torch.equal(
        GgufWeights.from_layer(layer, KERNELS, MatmulWorkspace()).dequantize_rows(chosen, dtype),
        weight[chosen],
    )


@has_kernels
@pytest.mark.parametrize("token", [-1, 75])
def test_a_token_that_an_embedding_does_not_have_is_refused(token: int) -> None:
    assert KERNELS is not None
    with pytest.raises(IndexError, match="rows_of_blocks"):
        GgufWeights.from_layer(layer_of("Q4_K", 75, 256), KERNELS, MatmulWorkspace()).dequantize_rows(
            torch.tensor([3, token]), torch.float32
        )


@has_kernels
def test_a_tied_embedding_takes_its_rows_from_the_heads_panels() -> None:
    head = layer_of("Q6_K", 75, 256)
    embedding = GgufEmbedding(nn.Embedding(75, 256), head.weight.detach(), "Q6_K", torch.float32)
    head.weight = embedding.weight
    embedding.factor = torch.tensor(3.0)
    model = nn.ModuleList([embedding, head])
    ids = torch.tensor([[1, 70]])
    expected = embedding(ids)
    layers = QuantizedLayers(model, HeapTrimmer())
    assert embedding in layers.replaced_layers
    embedding.weight.data.zero_()  # it is not read any more
    assert torch.equal(embedding(ids), expected)
    del embedding.forward
    assert not embedding(ids).any()


def by_bytes(layer: GgufLinear, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The outputs of rows in bytes in float64, and how far rounding in float32 may be off."""
    weight = dequantize_blocks(
        layer.get_weight_blocks(0, layer.out_features), layer.kind, layer.in_features
    ).double()
    numbers = round_activations_to_int8(rows.float(), TYPES[layer.kind].activation_group).double()
    return numbers @ weight.T, numbers.abs() @ weight.abs().T * 2e-6


@has_kernels
@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_products_of_rows_in_bytes_are_exact_but_for_the_rounding_of_rows(
    name: str, dtype: torch.dtype
) -> None:
    assert KERNELS is not None
    outputs, inputs = 75, 768
    layer = layer_of(name, outputs, inputs, ordered=False, has_byte_rows=True)
    rows = rows_of(250, inputs, dtype)
    rows[3, 32:64] = 0  # a part without a largest number
    whole = GgufWeights.from_layer(layer, KERNELS, MatmulWorkspace()).matmul(rows)
    expected, allowed = by_bytes(layer, rows)
    off = 2.0**-8 if dtype is torch.bfloat16 else 0.0  # of an output that is rounded
    assert ((whole.double() - expected).abs() <= allowed + off * expected.abs()).all()
    for count in (1, 2, 4, 7, 50):
        assert torch.equal(
            GgufWeights.from_layer(layer, KERNELS, MatmulWorkspace()).matmul(rows[:count]), whole[:count]
        )
    plain = GgufWeights.from_layer(
        layer_of(name, outputs, inputs, ordered=False), KERNELS, MatmulWorkspace()
    ).matmul(rows)
    assert not torch.equal(plain, whole)  # rows are rounded


@has_kernels
def test_a_number_that_is_none_makes_its_row_none_and_no_other() -> None:
    assert KERNELS is not None
    layer = layer_of("Q4_K", 64, 256, has_byte_rows=True)
    rows = rows_of(9, 256, torch.float32)
    rows[2, 100] = torch.inf
    rows[5, 0] = torch.nan
    found = GgufWeights.from_layer(layer, KERNELS, MatmulWorkspace()).matmul(rows)
    assert found.isnan().all(dim=1).nonzero().flatten().tolist() == [2, 5]
    assert found[[0, 1, 3, 4, 6, 7, 8]].isfinite().all()
