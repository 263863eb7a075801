"""Layers of packed weights get the kernels' products, and keep their own where these are wrong or
missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import group_layers
import pytest
import torch
from gguf_blocks import block_layer
from group_layers import rows_of
from torch import nn

from runner_base.notes import Note, note
from runner_engine.devices.heap import HeapTrimmer
from runner_engine.kernels import native
from runner_engine.matmul import blocks, groups
from runner_engine.matmul.blocks import GgufWeights
from runner_engine.matmul.groups import GroupedWeights
from runner_engine.matmul.layer_weights import MatmulWorkspace
from runner_engine.matmul.quantized_layers import QuantizedLayers

KERNELS = native.load_kernels()
has_kernels = pytest.mark.skipif(KERNELS is None, reason="the kernels are not built here")


def group_layer(kind: str, outputs: int, inputs: int, bias: torch.Tensor | None = None) -> Any:
    return group_layers.layer_of(kind, outputs, inputs, bias=bias)[0]


@dataclass(frozen=True)
class Packing:
    """A way to pack weights: how its layers are made and multiplied, and a note where torch does it."""

    layer: Callable[..., Any]
    weights: Any
    module: ModuleType
    instead: Note


OF_BLOCKS = Packing(block_layer, GgufWeights, blocks, note("blocks_multiplied_by_torch", kind="Q4_K"))
OF_GROUPS = Packing(group_layer, GroupedWeights, groups, note("multiplied_by_torch", what="GroupedLinear"))


@has_kernels
@pytest.mark.parametrize(("of", "kind"), [(OF_BLOCKS, "Q5_1"), (OF_GROUPS, "awq")])
def test_a_last_strip_that_is_short_and_a_bias(of: Packing, kind: str) -> None:
    layer = of.layer(kind, 40, 320, bias=torch.randn(40))
    expected = layer(rows := rows_of(9, 320, torch.float32))
    assert torch.allclose(
        of.weights.from_layer(layer, KERNELS, MatmulWorkspace()).matmul(rows), expected, atol=1e-5
    )
    assert not torch.allclose(expected, expected - layer.bias, atol=1e-5)  # the bias counts


@has_kernels
@pytest.mark.parametrize(("of", "kind"), [(OF_BLOCKS, "Q4_K"), (OF_GROUPS, "gptq_order")])
def test_a_model_gets_the_kernels_products_and_its_own_back(of: Packing, kind: str) -> None:
    model = nn.Sequential(of.layer(kind, 64, 256))
    layers = QuantizedLayers(model, HeapTrimmer())
    assert list(layers.matrices) == [model[0]]
    assert not layers.left
    assert not layers.notes
    rows = rows_of(3, 256, torch.float32)
    fast = model[0](rows)
    del model[0].forward
    assert torch.allclose(fast, model[0](rows), atol=1e-5)


@pytest.mark.parametrize(("of", "kind"), [(OF_BLOCKS, "Q4_K"), (OF_GROUPS, "awq")])
def test_without_kernels_torch_multiplies_and_a_note_says_so(
    monkeypatch: pytest.MonkeyPatch, of: Packing, kind: str
) -> None:
    monkeypatch.setattr(native, "load_kernels", lambda: None)
    layer = of.layer(kind, 64, 256)
    layers = QuantizedLayers(nn.Sequential(layer), HeapTrimmer())
    assert layers.left == [layer]
    assert layers.notes == [note("slow_layers", instead=of.instead, reason=note("no_kernels"))]


@has_kernels
@pytest.mark.parametrize(("of", "kind"), [(OF_BLOCKS, "Q4_0"), (OF_GROUPS, "packed")])
def test_a_wrong_kernel_is_noticed_and_not_used(
    monkeypatch: pytest.MonkeyPatch, of: Packing, kind: str
) -> None:
    module: Any = of.module
    name = "pack_gguf_blocks" if module is blocks else "pack_grouped_weights"
    right = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *arguments: right(*arguments).roll(1, dims=1))
    monkeypatch.setattr(module, "_tried", {})
    assert module.find_kernel_problem(of.layer(kind, 64, 256), KERNELS).code == "outputs_off"
