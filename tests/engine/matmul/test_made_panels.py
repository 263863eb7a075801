"""Integers in groups that were made here: products with zero points of any kind, and panels in
place of the rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from opening import adapt, load_base, make_spec
from torch import nn

from runner_base.dtypes import Dtype
from runner_engine.devices.heap import HeapTrimmer
from runner_engine.kernels import native
from runner_engine.matmul.backend_selection import choose_backend_for_unpacked_weights
from runner_engine.matmul.groups import GroupedWeights, find_kernel_problem
from runner_engine.matmul.layer_weights import MatmulWorkspace
from runner_engine.matmul.plain_packing import PlainPackedWeights
from runner_engine.matmul.quantized_layers import QuantizedLayers
from runner_engine.models.grouped_linear import GroupedLinear
from runner_engine.models.layouts.load_time import OutputMajorLayout, PackedBlockLayout
from runner_engine.models.loading.made_groups import quantize_linear
from runner_engine.quantization.hqq import HqqConfig
from runner_engine.quantization.load_time_groups import BITS, LoadTimeGroupsConfig
from runner_engine.quantization.torchao import TorchaoIntxConfig
from runner_engine.settings.model import LocalConfig

KERNELS = native.load_kernels()
has_kernels = pytest.mark.skipif(KERNELS is None, reason="the kernels are not built here")
DTYPES = (torch.float32, torch.bfloat16)
KINDS: dict[str, Callable[..., LoadTimeGroupsConfig]] = {
    "zero points as scales": HqqConfig,
    "one zero point": TorchaoIntxConfig,
    "zero points in bytes": lambda **keys: TorchaoIntxConfig(**keys, symmetric=False),
}


def made(choice: LoadTimeGroupsConfig, outputs: int, inputs: int, dtype: torch.dtype) -> GroupedLinear:
    torch.manual_seed(0)
    layer = quantize_linear(choice, nn.Linear(inputs, outputs, bias=False).to(dtype), "layer")
    assert isinstance(layer, GroupedLinear)
    return layer


@has_kernels
@pytest.mark.sampled(36)  # each kind, dtype, number of bits and shape, many times
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("outputs", "inputs", "group"), [(96, 320, 64), (75, 640, 128), (33, 64, 8)])
def test_products_are_those_of_the_unpacked_weights_before_and_after_panels_take_the_rows_place(
    kind: str, dtype: torch.dtype, bits: int, outputs: int, inputs: int, group: int
) -> None:
    assert KERNELS is not None
    layer = made(KINDS[kind](bits=bits, group_size=group), outputs, inputs, dtype)
    weight = layer.dequantize_outputs(0, outputs, dtype)
    rows = torch.randn(50, inputs, generator=torch.Generator().manual_seed(1)).to(dtype)
    plain = PlainPackedWeights.pack(weight, None, KERNELS).matmul(rows)
    assert torch.equal(GroupedWeights.from_layer(layer, KERNELS, MatmulWorkspace()).matmul(rows), plain)
    assert not find_kernel_problem(layer, KERNELS)
    by_tiles = (
        choose_backend_for_unpacked_weights(nn.Sequential(layer), KERNELS)
        if dtype is torch.bfloat16
        else None
    )
    tile_rows = 0 if by_tiles is None else by_tiles.tile_rows
    layers = QuantizedLayers(nn.Sequential(layer), HeapTrimmer())
    assert not layers.notes
    assert isinstance(layer.layout, PackedBlockLayout)
    assert torch.equal(layer(rows), PlainPackedWeights.pack(weight, None, KERNELS, tile_rows).matmul(rows))
    assert {
        name: tuple(one.shape) for name, one in layer.stored.items()
    } == layer.layout.compute_expected_shapes()
    assert torch.equal(layer.dequantize_outputs(0, outputs, dtype), weight)
    assert torch.equal(layer.dequantize_outputs(5, 32, dtype), weight[5:32])
    assert torch.equal(layer.dequantize_outputs(31, 33, dtype), weight[31:33])
    again = GroupedWeights.from_layer(layer, KERNELS, MatmulWorkspace())
    assert again.weight.data_ptr() == layer.weight.data_ptr()
    assert torch.equal(again.matmul(rows), plain)


@has_kernels
def test_rows_that_a_checkpoint_holds_stay() -> None:
    layer = made(HqqConfig(), 64, 128, torch.float32)
    assert isinstance(layer.layout, OutputMajorLayout)
    held = sum(one.nbytes for one in layer.stored.values())
    QuantizedLayers(nn.Sequential(layer), HeapTrimmer())
    assert sum(one.nbytes for one in layer.stored.values()) == held
    assert list(layer.stored) == ["panels"], "the rows are gone: the weights are in memory once"


@has_kernels
def test_rows_that_are_rounded_are_rounded_before_the_kernels_product() -> None:
    assert KERNELS is not None
    layer: Any = made(TorchaoIntxConfig(int8_activations=True), 64, 128, torch.bfloat16)
    rows = torch.randn(9, 128, generator=torch.Generator().manual_seed(0)).bfloat16()
    weight = PlainPackedWeights.pack(layer.dequantize_outputs(0, 64, torch.bfloat16), None, KERNELS)
    layers = QuantizedLayers(nn.Sequential(layer), HeapTrimmer())
    assert layers.replaced_layers == [layer]
    assert layers.matrices == {}, "a pass in a single call would not round the rows"
    assert torch.equal(layer(rows), weight.matmul(layer.round_activations(rows)))
    assert not torch.equal(layer(rows), weight.matmul(rows))


@pytest.mark.thorough
@has_kernels
def test_a_second_job_over_the_same_base_reads_the_panels_of_the_first(
    saved_family: Callable[..., Path],
) -> None:
    model = LocalConfig(name=str(saved_family()), device="cpu", dtype=Dtype.float32)
    spec = make_spec(model=model, quantization=HqqConfig())
    loaded = adapt(load_base(spec), spec).model
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        before = loaded(ids).logits
        for _ in range(2):
            layers = QuantizedLayers(loaded, HeapTrimmer())
            fast = loaded(ids).logits
            for layer in layers.replaced_layers:
                del layer.forward
            assert torch.allclose(fast, before, atol=1e-4)
            assert torch.equal(loaded(ids).logits, before)
