"""Products with groups of integers equal those with the unpacked weights bit for bit, for any
number of rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from answering_alike import answers
from families import save_peft
from group_layers import KINDS, ValuesLayout, layer_of, rows_of, values_layer
from grouped_checkpoints import save
from refusals import refusal
from torch import nn
from transformers import AutoTokenizer

from runner_base.dtypes import Dtype
from runner_base.notes import note
from runner_engine.kernels import native
from runner_engine.local.engine import LocalEngine
from runner_engine.matmul import groups
from runner_engine.matmul.groups import GroupedWeights
from runner_engine.matmul.layer_weights import MatmulWorkspace, multiply_with_kernel
from runner_engine.matmul.plain_packing import PlainPackedWeights
from runner_engine.models.grouped_linear import GroupedLinear
from runner_engine.models.layouts.float8 import E4M3
from runner_engine.settings.lora import PeftConfig
from runner_engine.settings.model import LocalConfig

KERNELS = native.load_kernels()
has_kernels = pytest.mark.skipif(KERNELS is None, reason="the kernels are not built here")
DTYPES = (torch.float32, torch.bfloat16)


def check_products(layer: GroupedLinear, dtype: torch.dtype) -> None:
    assert KERNELS is not None
    weight = layer.dequantize_outputs(0, layer.out_features, dtype)
    ours, plain = (
        GroupedWeights.from_layer(layer, KERNELS, MatmulWorkspace()),
        PlainPackedWeights.pack(weight, None, KERNELS),
    )
    whole = ours.matmul(rows := rows_of(250, layer.in_features, dtype))
    assert torch.equal(whole, plain.matmul(rows))
    for count in (1, 4, 7, 50):
        assert torch.equal(ours.matmul(rows[:count]), whole[:count])


@has_kernels
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_products_are_those_of_the_unpacked_weights(kind: str, dtype: torch.dtype) -> None:
    check_products(layer_of(kind, 96, 768)[0], dtype)


@has_kernels
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_number_of_bits(bits: int, dtype: torch.dtype) -> None:
    # a panel that is not full, and a strip that is short
    layer, of = layer_of("gptq", 96, 320, bits)
    assert torch.equal(layer.dequantize_outputs(0, 96, torch.float32).double(), of.plain)
    check_products(layer, dtype)


@has_kernels
@pytest.mark.parametrize("group", [8, 32, 96, 128, 256, 512, -1, 20, 1])
def test_any_size_of_group(group: int) -> None:
    layer, of = layer_of("packed", 75, 640, group=group)
    assert torch.equal(layer.dequantize_outputs(0, 75, torch.float32).double(), of.plain)
    check_products(layer, torch.bfloat16)


def test_torch_unpacks_some_outputs_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, of = layer_of("awq", 80, 256)
    rows = rows_of(3, 256, torch.float32)
    expected = nn.functional.linear(rows, of.plain.float())
    monkeypatch.setattr("runner_engine.models.grouped_linear.UNPACKED_AT_ONCE", {"cpu": 32 * 256})
    assert torch.allclose(layer(rows), expected, atol=1e-6)


@has_kernels
def test_many_outputs_are_packed_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert KERNELS is not None
    layer, _ = layer_of("gptq", 160, 256, bits=8)
    whole = GroupedWeights.from_layer(layer, KERNELS, MatmulWorkspace()).weight
    monkeypatch.setattr(groups, "PACKED_AT_ONCE", 1)
    assert torch.equal(GroupedWeights.from_layer(layer, KERNELS, MatmulWorkspace()).weight, whole)


@has_kernels
def test_inputs_that_are_not_whole_eights_are_left_to_torch() -> None:
    layer, of = layer_of("packed", 64, 100, group=20)
    assert groups.find_kernel_problem(layer, KERNELS) == note("uneven_inputs")
    assert torch.equal(layer.dequantize_outputs(0, 64, torch.float32).double(), of.plain)


@has_kernels
@pytest.mark.parametrize(
    "wrong",
    [{"bits": 7}, {"block": 0}, {"block": 12}, {"scale_type": 5}, {"zero_point": 256}, {"zero_point": -3}],
)
def test_what_the_kernel_refuses(wrong: dict[str, int]) -> None:
    assert KERNELS is not None
    ours = GroupedWeights.from_layer(layer_of("gptq", 32, 256)[0], KERNELS, MatmulWorkspace())
    for name, value in wrong.items():
        setattr(ours.matrix, name, value)
    with pytest.raises(IndexError, match=refusal("WRONG_MATRIX")):
        ours.matmul(torch.ones(1, 256))


@has_kernels
def test_the_kernel_refuses_rows_that_are_not_whole_eights() -> None:
    assert KERNELS is not None
    ours = GroupedWeights.from_layer(layer_of("gptq", 32, 256)[0], KERNELS, MatmulWorkspace())
    ours.inputs = 100
    with pytest.raises(IndexError, match=refusal("WRONG_MATRIX")):
        multiply_with_kernel(KERNELS, torch.ones(1, 100), ours)


@pytest.mark.thorough
@has_kernels
def test_an_adapter_on_top_changes_the_answers(
    saved_family: Callable[..., Path], opened: Callable[..., LocalEngine], tmp_path: Path, tiny_llama: Path
) -> None:
    save(tmp_path, "gptq_order")
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(tmp_path)
    adapter = save_peft(tmp_path / "lora", saved_family())
    model = LocalConfig(name=str(tmp_path), device="cpu", dtype=Dtype.float32)
    plain, adapted = opened(model=model), opened(model=model, lora=PeftConfig(path=str(adapter)))
    plain.load()
    report = adapted.load()
    assert report.facts["quantized"].endswith("14 of 15 linear layers: 14 GroupedLinear)")
    assert report.metrics["lora_modules"] > 0
    assert answers(adapted) != answers(plain)


@has_kernels
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [16, 32, 128, 640, 20])
@pytest.mark.parametrize("scales", [torch.float32, torch.bfloat16, torch.float16])
def test_codes_of_values(bits: int, group: int, scales: torch.dtype) -> None:
    layer = values_layer(75, 640, bits, group, scales)
    assert groups.find_kernel_problem(layer, KERNELS) is None
    for dtype in DTYPES:
        check_products(layer, dtype)


@has_kernels
def test_each_float8_is_exact() -> None:
    assert KERNELS is not None
    layer = values_layer(256, 64, 8, 64, torch.float32)
    codes = torch.arange(256, dtype=torch.uint8)
    codes[(codes & 127) == 127] = 0
    layer.stored["weight_packed"].copy_(codes[:, None].expand(256, 64).contiguous().view(torch.int32))
    layer.stored["weight_scale"].fill_(1)
    one = torch.zeros(1, 64)
    one[0, 9] = 1
    assert torch.equal(
        GroupedWeights.from_layer(layer, KERNELS, MatmulWorkspace()).matmul(one)[0], E4M3[codes.int()]
    )


@has_kernels
def test_values_that_the_kernels_do_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    e5m2 = torch.arange(256, dtype=torch.uint8).view(torch.float8_e5m2).float()
    layer = values_layer(64, 64, 8, 64, torch.float32)
    monkeypatch.setattr(ValuesLayout, "values", property(lambda _: e5m2))
    assert groups.find_kernel_problem(layer, KERNELS) == note("unknown_codes")


@has_kernels
@pytest.mark.parametrize("wrong", [{"scale": None}, {"bits": 8}, {"code_type": 3}, {"code_type": 2}])
def test_what_the_kernel_refuses_of_tables(wrong: dict[str, int]) -> None:
    assert KERNELS is not None
    ours = GroupedWeights.from_layer(values_layer(64, 64, 4, 32, torch.bfloat16), KERNELS, MatmulWorkspace())
    for name, value in wrong.items():
        setattr(ours.matrix, name, value)
    with pytest.raises(IndexError, match=refusal("WRONG_MATRIX")):
        ours.matmul(torch.ones(1, 64))
