"""Experts in one call of C: beside the family's own function, in panels, as they lie, and
quantized."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from library_layers import layer_of
from mixtures import MIXTURES, mixture
from refusals import refusal
from torch import nn

from runner_base.notes import note
from runner_engine.devices.heap import HeapTrimmer
from runner_engine.experts import SeparateExperts, separate_all_experts
from runner_engine.kernels import native
from runner_engine.kernels.c_interface import Activation
from runner_engine.matmul import GroupedExperts, QuantizedLayers
from runner_engine.matmul.grouped.expert_layer import ExpertLayer, ExpertWorkspace, PlainExpertWeights
from runner_engine.matmul.grouped.gate_formulas import GateFormula, find_c_formula_for_gate

NEAR = {torch.float32: 1e-5, torch.bfloat16: 0.1}  # of the logits' spread
IDS = torch.arange(1, 41)[None]


@contextmanager
def grouped(model: nn.Module) -> Iterator[GroupedExperts]:
    """Let a model multiply its experts in one call."""
    kernels = native.load_kernels()
    assert kernels is not None
    found = GroupedExperts.replace_expert_layers(model, kernels, {}, {})
    try:
        yield found
    finally:
        found.restore()


def logits_of(model: Any) -> torch.Tensor:
    """Return the logits of a short text."""
    with torch.inference_mode():
        logits: torch.Tensor = model(IDS, use_cache=False).logits.float()
    return logits


def is_near(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether logits differ by rounding only."""
    return bool((found - expected).abs().max() <= NEAR[dtype] * expected.std())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", MIXTURES)
def test_logits_are_the_models_own(family: str, dtype: torch.dtype) -> None:
    """And its parameters are afterwards what they were, bit for bit."""
    model = mixture(family).to(dtype)
    expected, before = (logits_of(model), {name: one.clone() for name, one in model.named_parameters()})
    with grouped(model) as found:
        assert found.layers
        assert found.packed
        assert not found.notes
        assert is_near(logits_of(model), expected, dtype)
    assert all(torch.equal(before[name], one) for name, one in model.named_parameters())
    assert torch.equal(logits_of(model), expected)


def test_an_exchanged_expert_is_seen() -> None:
    """The control: with two experts' weights exchanged, logits are off."""
    model = mixture("qwen3_moe")
    expected = logits_of(model)
    with grouped(model) as found:
        for layer in found.layers.values():
            first, second = layer.matrices[2], layer.matrices[5]
            first.weight, second.weight = second.weight, first.weight
        assert not is_near(logits_of(model), expected, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_weights_that_fill_no_panels_are_read_where_they_lie(dtype: torch.dtype) -> None:
    """Also where the inputs are no whole registers."""
    model = mixture("qwen3_moe", moe_intermediate_size=40, hidden_size=72).to(dtype)
    expected = logits_of(model)
    with grouped(model) as found:
        assert found.layers
        assert not found.packed
        assert is_near(logits_of(model), expected, dtype)


def layer_and_rows(
    dtype: torch.dtype, in_panels: bool
) -> tuple[ExpertLayer, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a layer of experts, rows, their experts and weights."""
    model = mixture("qwen3_moe", **({} if in_panels else {"moe_intermediate_size": 40})).to(dtype)
    with grouped(model) as found:
        layer = next(iter(found.layers.values()))
        assert bool(found.packed) is in_panels
        found.layers, found.packed = {}, []  # so that they stay in panels
    random = torch.Generator().manual_seed(1)
    rows = torch.randn(50, 64, generator=random).to(dtype)
    # the last expert has no rows
    index = torch.stack([torch.randperm(7, generator=random)[:3] for _ in rows])
    return layer, rows, index, torch.rand(index.shape, generator=random).to(dtype)


@pytest.mark.parametrize("in_panels", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_bits_of_a_row_do_not_depend_on_other_rows(dtype: torch.dtype, in_panels: bool) -> None:
    """One row at a time, some at a time, and all."""
    layer, rows, index, weights = layer_and_rows(dtype, in_panels)
    together = layer(rows, index, weights)
    for some in (1, 3, 7):
        parts = [
            layer(*part)
            for part in zip(rows.split(some), index.split(some), weights.split(some), strict=True)
        ]
        assert torch.equal(torch.cat(parts), together)


@pytest.mark.parametrize("in_panels", [True, False])
def test_experts_without_rows_are_not_read(in_panels: bool) -> None:
    """The last expert has no weights here, nor memory; the control is one that is asked for."""
    layer, rows, index, weights = layer_and_rows(torch.float32, in_panels)
    expected = layer(rows, index, weights)
    for matrix in layer.matrices[21:24]:
        matrix.weight = 64  # to read it ends the process
    assert torch.equal(layer(rows, index, weights), expected)
    layer.matrices[0].weight = None
    with pytest.raises(IndexError, match=refusal("WRONG_MATRIX", function="experts")):
        layer(rows, index, weights)


def test_a_choice_beyond_the_experts_stands_for_none_and_a_negative_one_is_refused() -> None:
    """As families have it whose rows have fewer experts than others."""
    layer, rows, index, weights = layer_and_rows(torch.float32, True)
    without = weights.clone()
    without[5:, 1] = 0
    expected = layer(rows, index, without)
    index[5:, 1] = 8
    assert torch.allclose(layer(rows, index, weights), expected, atol=1e-6)
    assert not layer(rows, torch.full_like(index, 8), weights).any()
    index[3, 0] = -1
    with pytest.raises(IndexError, match="choice 9"):
        layer(rows, index, weights)


@pytest.mark.parametrize("has_gate", [True, False])
@pytest.mark.parametrize(
    "formula",
    [
        *map(GateFormula, list(Activation)[1:]),
        GateFormula(Activation.silu, 1.0, 2.0),
        GateFormula(Activation.silu, 1.702, 3.0, 1.0),
    ],
    ids=str,
)
def test_gates_are_those_of_torch(formula: GateFormula, has_gate: bool) -> None:
    """Each formula, and that it is found by its numbers."""
    random = torch.Generator().manual_seed(0)
    kernels = native.load_kernels()
    assert kernels is not None
    shapes = ((24, 16), (24, 16), (16, 24)) if has_gate else ((24, 16), (16, 24))
    weights = [
        PlainExpertWeights(torch.randn(shape, generator=random), torch.randn(shape[0])) for shape in shapes
    ]
    layer = ExpertLayer.from_weights(weights, formula, has_gate, kernels, ExpertWorkspace(), torch.float32)
    rows, one = torch.randn(9, 16, generator=random), torch.zeros(9, 1, dtype=torch.int64)
    inner = formula(*(nn.functional.linear(rows, weight.weight, weight.bias) for weight in weights[:-1]))
    expected = nn.functional.linear(inner, weights[-1].weight, weights[-1].bias)
    assert torch.allclose(
        layer(rows, one, torch.ones(9, 1)), expected, rtol=1e-5, atol=1e-4 * float(expected.abs().max())
    )
    family: Any = nn.Module()
    family.limit, family.alpha = formula.limit or 7.0, formula.alpha
    assert find_c_formula_for_gate(formula, family, has_gate) == formula


def test_a_gate_that_c_does_not_know_is_left_to_the_family() -> None:
    """With a note."""
    model = mixture("qwen3_moe")
    for module in model.modules():
        if hasattr(module, "gate_up_proj"):
            module.act_fn = nn.Tanh()
    expected = logits_of(model)
    with grouped(model) as found:
        assert not found.layers
        assert found.notes == [note("slow_experts", reason=note("other_gate_formula"))]
        assert torch.equal(logits_of(model), expected)


def test_the_variable_turns_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """For comparisons."""
    monkeypatch.setenv("RUNNER_EXPERTS", "plain")
    with grouped(mixture("qwen3_moe")) as found:
        assert not found.layers
        assert not found.notes


def quantize_experts(model: nn.Module, kind: str) -> None:
    """Exchange the experts' layers for those of a library, each with other weights."""
    for experts in [module for module in model.modules() if isinstance(module, SeparateExperts)]:
        for path, layer in [
            (path, one) for path, one in experts.named_modules() if isinstance(one, nn.Linear)
        ]:
            weight = layer.weight.data.clone()
            experts.set_submodule(
                path, layer_of(kind, layer.in_features, layer.out_features, False, weight=weight)
            )


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", ["int8", "nf4", "torchao_int8"])
def test_quantized_experts_are_multiplied_from_their_codes(kind: str) -> None:
    """Each a layer of the library's, with the weights that the kernels read."""
    model = mixture("qwen3_moe").to(torch.bfloat16)
    plain = logits_of(model)
    separate_all_experts(model)
    quantize_experts(model, kind)
    layers = QuantizedLayers(model, HeapTrimmer())
    assert layers.matrices
    expected = logits_of(model)
    kernels = native.load_kernels()
    found = GroupedExperts.replace_expert_layers(model, kernels, layers.matrices, {})
    assert found.layers
    assert not found.notes
    assert found.is_batch_invariant is (kind != "int8")  # whose outliers of one row count for all rows
    assert is_near(logits_of(model), expected, torch.bfloat16)
    assert not torch.equal(expected, plain)
    found.restore()
