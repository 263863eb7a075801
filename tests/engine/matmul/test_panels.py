"""Products with weights in panels against float64: all remainders of rows, outputs and steps, and
the same sums always."""

from __future__ import annotations

import pytest
import torch

from runner_engine.kernels import native
from runner_engine.matmul.plain_packing import PlainPackedWeights, can_pack_weight

KERNELS = native.load_kernels()
pytestmark = pytest.mark.skipif(KERNELS is None, reason="no C compiler is here, so nothing is called in C")
ROUNDED = {torch.float32: 1e-5, torch.bfloat16: 6e-3}  # of the largest result
SHAPES = [(8, 64), (32, 6), (33, 64), (64, 62), (96, 130), (250, 96), (1000, 24)]  # outputs, inputs


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def made(
    outputs: int, inputs: int, dtype: torch.dtype, bias: bool = False
) -> tuple[torch.Tensor, PlainPackedWeights]:
    weight = torch.randn(outputs, inputs).to(dtype)
    if not can_pack_weight(weight, KERNELS):
        pytest.skip("this processor has no products of such numbers")
    assert KERNELS is not None
    return weight, PlainPackedWeights.pack(weight, torch.randn(outputs).to(dtype) if bias else None, KERNELS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_of_all_remainders(
    dtype: torch.dtype, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    torch.manual_seed(0)
    for outputs, inputs in SHAPES:
        for is_biased in (False, True):
            weight, panels = made(outputs, inputs, dtype, is_biased)
            for count in (*range(1, 15), 50, 131):
                rows = torch.randn(count, inputs).to(dtype)
                expected = rows.double() @ weight.double().T
                if panels.bias is not None:
                    expected += panels.bias.double()
                product = panels.matmul(rows)
                assert product.dtype == dtype
                off = (product.double() - expected).abs().max() / expected.abs().max()
                assert off <= ROUNDED[dtype], (outputs, inputs, count)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_has_the_same_product_whatever_goes_along(dtype: torch.dtype) -> None:
    """So these sums do not make an answer depend on its neighbours."""
    torch.manual_seed(0)
    _, panels = made(96, 200, dtype)
    rows = torch.randn(400, 200).to(dtype)
    together = panels.matmul(rows)
    for first, last in ((0, 1), (1, 6), (6, 13), (13, 77), (77, 400)):
        assert torch.equal(panels.matmul(rows[first:last]), together[first:last])


def test_rows_of_half_a_pair_do_not_fit() -> None:
    assert not can_pack_weight(torch.ones(4, 3, dtype=torch.bfloat16), KERNELS)
    assert not can_pack_weight(torch.ones(4, 4, dtype=torch.float16), KERNELS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_those_that_were_packed(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner_engine.matmul.plain_packing.PACKED_AT_ONCE", 1)  # a panel at a time
    for outputs, inputs in SHAPES:
        weight, panels = made(outputs, inputs, dtype)
        tokens = torch.randint(0, outputs, (2, 9))
        assert torch.equal(panels.gather_weights_of_outputs(tokens), weight[tokens])
        assert panels.gather_weights_of_outputs(tokens[:0]).shape == (0, 9, inputs)
        for wrong in (outputs, -1):
            with pytest.raises(IndexError, match=rf"^output {wrong} .* {outputs} outputs$"):
                panels.gather_weights_of_outputs(torch.tensor([0, wrong]))
