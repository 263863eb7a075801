"""Products with the blocks of a .gguf file equal those with its unpacked weights bit for bit, for
any number of rows."""

from __future__ import annotations

import ctypes

import pytest
import torch
from gguf_blocks import block_layer as layer_of
from group_layers import rows_of
from torch import nn

from runner_engine.devices.heap import Heap
from runner_engine.kernels import native
from runner_engine.kernels.shared_numbers import Matrix
from runner_engine.matmul.blocks import Blocks
from runner_engine.matmul.matrices import Workspace, multiply
from runner_engine.matmul.panels import Panels
from runner_engine.matmul.quantized_layers import QuantizedLayers
from runner_engine.models.gguf_blocks import GgufEmbedding, GgufLinear
from runner_engine.models.gguf_types import TYPES, unpacked
from runner_engine.models.grouped import rounded_by_parts

KERNELS = native.kernels()
has_kernels = pytest.mark.skipif(KERNELS is None, reason="the kernels are not built here")
DTYPES = (torch.float32, torch.bfloat16)


@has_kernels
@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_products_are_those_of_the_unpacked_weights(name: str, dtype: torch.dtype) -> None:
    assert KERNELS is not None
    outputs, inputs = 75, 768  # a panel that is not full, and several strips
    layer = layer_of(name, outputs, inputs, ordered=False)
    weight = unpacked(layer.rows(0, outputs), name, inputs).to(dtype)
    ours, plain = Blocks.of(layer, KERNELS, Workspace()), Panels.of(weight, None, KERNELS)
    whole = ours.product(rows := rows_of(250, inputs, dtype))
    assert torch.equal(whole, plain.product(rows))
    for count in (1, 4, 7, 50):
        assert torch.equal(ours.product(rows[:count]), whole[:count])


@has_kernels
def test_what_the_kernel_refuses() -> None:
    assert KERNELS is not None
    ours = Blocks.of(layer_of("Q4_K", 32, 256), KERNELS, Workspace())
    ours.matrix.block = 99  # no such type
    with pytest.raises(IndexError, match="cannot multiply"):
        ours.product(torch.ones(1, 256))
    ours.matrix.block, ours.inputs = TYPES["Q4_K"].number, 128  # half a block
    with pytest.raises(IndexError, match="cannot multiply"):
        multiply(KERNELS, torch.ones(1, 128), ours)
    assert ctypes.sizeof(Matrix) == ctypes.sizeof(ours.matrix)


@has_kernels
@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_an_embedding_are_those_of_the_unpacked_weights(name: str, dtype: torch.dtype) -> None:
    assert KERNELS is not None
    layer = layer_of(name, outputs := 75, 768)
    weight = unpacked(layer.rows(0, outputs), name, 768).to(dtype)
    chosen = torch.tensor([[0, 74, 31], [32, 5, 5]])
    assert torch.equal(Blocks.of(layer, KERNELS, Workspace()).rows(chosen, dtype), weight[chosen])


@has_kernels
@pytest.mark.parametrize("token", [-1, 75])
def test_a_token_that_an_embedding_does_not_have_is_refused(token: int) -> None:
    assert KERNELS is not None
    with pytest.raises(IndexError, match="rows_of_blocks"):
        Blocks.of(layer_of("Q4_K", 75, 256), KERNELS, Workspace()).rows(
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
    layers = QuantizedLayers(model, Heap())
    assert embedding in layers.exchanged
    embedding.weight.data.zero_()  # it is not read any more
    assert torch.equal(embedding(ids), expected)
    del embedding.forward
    assert not embedding(ids).any()


def by_bytes(layer: GgufLinear, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The outputs of rows in bytes in float64, and how far rounding in float32 may be off."""
    weight = unpacked(layer.rows(0, layer.out_features), layer.kind, layer.in_features).double()
    numbers = rounded_by_parts(rows.float(), TYPES[layer.kind].row_part).double()
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
    whole = Blocks.of(layer, KERNELS, Workspace()).product(rows)
    expected, allowed = by_bytes(layer, rows)
    off = 2.0**-8 if dtype is torch.bfloat16 else 0.0  # of an output that is rounded
    assert ((whole.double() - expected).abs() <= allowed + off * expected.abs()).all()
    for count in (1, 2, 4, 7, 50):
        assert torch.equal(Blocks.of(layer, KERNELS, Workspace()).product(rows[:count]), whole[:count])
    plain = Blocks.of(layer_of(name, outputs, inputs, ordered=False), KERNELS, Workspace()).product(rows)
    assert not torch.equal(plain, whole)  # rows are rounded


@has_kernels
def test_a_number_that_is_none_makes_its_row_none_and_no_other() -> None:
    assert KERNELS is not None
    layer = layer_of("Q4_K", 64, 256, has_byte_rows=True)
    rows = rows_of(9, 256, torch.float32)
    rows[2, 100] = torch.inf
    rows[5, 0] = torch.nan
    found = Blocks.of(layer, KERNELS, Workspace()).product(rows)
    assert found.isnan().all(dim=1).nonzero().flatten().tolist() == [2, 5]
    assert found[[0, 1, 3, 4, 6, 7, 8]].isfinite().all()
