"""Codes in groups by rows in bytes: products are exact but for the rounding of rows, alike for any
number of rows."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from group_layers import KINDS, layer_of, rows_of, values_layer
from grouped_checkpoints import save
from refusals import refusal
from transformers import AutoTokenizer

from runner_base.dtypes import Dtype
from runner_engine.devices.heap import HeapTrimmer
from runner_engine.kernels import native
from runner_engine.kernels.c_interface import WeightFormat
from runner_engine.local.engine import LocalEngine
from runner_engine.matmul import groups
from runner_engine.matmul.groups import GroupedWeights, convert_code_values_to_int8
from runner_engine.matmul.layer_weights import MatmulWorkspace
from runner_engine.matmul.quantized_layers import QuantizedLayers
from runner_engine.models.grouped_linear import GroupedLinear, round_activations_to_int8
from runner_engine.quantization.base import Int8ActivationsConfig
from runner_engine.quantization.grouped import GptqConfig
from runner_engine.quantization.hqq import HqqConfig
from runner_engine.sessions.base import Request
from runner_engine.sessions.contract import complete_requests
from runner_engine.settings.model import LocalConfig

KERNELS = native.load_kernels()
has_kernels = pytest.mark.skipif(KERNELS is None, reason="the kernels are not built here")
DTYPES = (torch.float32, torch.bfloat16)


def check_byte_products(layer: GroupedLinear, dtype: torch.dtype) -> None:
    """Compare with float64, and few rows with many."""
    assert KERNELS is not None
    layer.has_byte_rows = True
    assert groups.find_kernel_problem(layer, KERNELS) is None
    ours = GroupedWeights.from_layer(layer, KERNELS, MatmulWorkspace())
    assert ours.matrix.kind == WeightFormat.byte_groups
    rows = rows_of(250, layer.in_features, dtype)
    whole = ours.matmul(rows)
    weight, numbers = (
        layer.dequantize_outputs(0, layer.out_features, torch.float32).double(),
        round_activations_to_int8(rows.float()).double(),
    )
    # before zero points
    codes = 256 * layer.layout.scales(layer.stored, 0, layer.out_features).double().amax(1)
    allowed = (numbers.abs() @ weight.abs().T + numbers.abs().sum(1, keepdim=True) * codes) * 2e-6
    expected = numbers @ weight.T
    off = 2.0**-8 if dtype is torch.bfloat16 else 0.0  # of an output that is rounded
    assert ((whole.double() - expected).abs() <= allowed + off * expected.abs()).all()
    for count in (1, 2, 4, 7, 50):
        assert torch.equal(ours.matmul(rows[:count]), whole[:count])


@has_kernels
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "gptq_order"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("group", [16, 32, 64, -1])
def test_products_of_stored_integers(kind: str, dtype: torch.dtype, group: int) -> None:
    check_byte_products(layer_of(kind, 96, 768, group=group)[0], dtype)


@has_kernels
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("kind", ["gptq", "packed"])
def test_products_of_each_number_of_bits(bits: int, kind: str) -> None:
    if kind == "gptq" and bits in (5, 6, 7):
        kind = "packed"  # GPTQ's layout has no such bits
    check_byte_products(layer_of(kind, 96, 640, bits=bits)[0], torch.float32)


@has_kernels
@pytest.mark.parametrize("group", [16, 32, 640])
def test_products_of_a_table_of_floats(group: int) -> None:
    layer = values_layer(75, 640, 4, group, torch.float32)
    assert layer.layout.values is not None
    assert convert_code_values_to_int8(layer.layout.values) is not None
    check_byte_products(layer, torch.float32)


def test_a_table_that_bytes_cannot_have() -> None:
    assert convert_code_values_to_int8(torch.linspace(-1, 1, 16)) is None
    table = convert_code_values_to_int8(torch.arange(16) / 2 - 3)
    assert table is not None
    assert torch.equal((table[0].float() - 128) * table[1], torch.arange(16) / 2 - 3)


@has_kernels
@pytest.mark.parametrize(("kind", "inputs"), [("gptq_order", 640), ("float8", 640), ("packed", 72)])
def test_rows_are_rounded_where_the_kernels_do_not_do_it(kind: str, inputs: int) -> None:
    """Groups that are not in order, codes that no bytes stand for, and a row whose last part is a
    short one."""
    if kind == "float8":
        layer = values_layer(96, inputs, 8, 32, torch.float32)
    else:
        layer = layer_of(kind, 96, inputs, group=64 if inputs == 640 else 24)[0]
    layer.has_byte_rows = True
    rows = rows_of(9, inputs, torch.float32)
    own = layer(rows)
    layers = QuantizedLayers(torch.nn.Sequential(layer), HeapTrimmer())
    assert not layers.notes
    assert torch.allclose(layer(rows), own, atol=1e-4 * float(own.abs().max()))
    del layer.forward
    layer.has_byte_rows = False
    assert not torch.allclose(layer(rows), own, atol=1e-4 * float(own.abs().max()))


@has_kernels
@pytest.mark.parametrize(
    "wrong", [{"block": 24}, {"bits": 7}, {"scale_type": 6}, {"code_type": 2}, {"zero_point": 256}]
)
def test_what_the_kernel_refuses(wrong: dict[str, int]) -> None:
    assert KERNELS is not None
    layer = layer_of("packed", 32, 256)[0]
    layer.has_byte_rows = True
    ours = GroupedWeights.from_layer(layer, KERNELS, MatmulWorkspace())
    for name, value in wrong.items():
        setattr(ours.matrix, name, value)
    with pytest.raises(IndexError, match=refusal("WRONG_MATRIX")):
        ours.matmul(torch.ones(1, 256))


@pytest.mark.thorough
@has_kernels
@pytest.mark.parametrize(
    ("name", "choice"), [("gptq", GptqConfig), ("gptq_order", GptqConfig), ("hqq", HqqConfig)]
)
def test_a_model_with_rows_in_bytes(
    opened: Callable[..., LocalEngine],
    tmp_path: Path,
    tiny_llama: Path,
    name: str,
    choice: type[Int8ActivationsConfig],
) -> None:
    """The same tokens whatever rows go along, in a single call, and other logits than with exact
    rows."""
    if name == "hqq":
        shutil.copytree(tiny_llama, tmp_path, dirs_exist_ok=True)
    else:
        save(tmp_path, name)
        AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(tmp_path)
    keys: dict[str, Any] = {"group_size": 32} if name == "hqq" else {}
    model = LocalConfig(name=str(tmp_path), device="cpu", dtype=Dtype.float32)
    by_bytes, exact = (
        opened(model=model, quantization=choice(**keys, int8_activations=on)) for on in (True, False)
    )
    asked = [Request(number, "word " * number, max_new_tokens=12) for number in range(1, 6)]
    together = {one.id: one.answer.token_ids for one in complete_requests(by_bytes, asked, 5)}
    assert together == {one.id: one.answer.token_ids for one in complete_requests(by_bytes, asked, 1)}
    report = by_bytes.load()
    assert "rows in 8 bits" in report.facts["quantized"]
    assert "rows in 8 bits" not in exact.load().facts["quantized"]
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        found, expected = (one.loaded.model(ids).logits for one in (by_bytes, exact))
    assert 0 < (found - expected).abs().mean() < 0.1 * expected.std()


def test_a_user_has_rows_in_8_bits_for_a_stored_checkpoint(
    runner: Callable[..., Any], tmp_path: Path, tiny_llama: Path
) -> None:
    """The checkpoint says nothing about rows, so the key is no contradiction to it."""
    save(tmp_path / "model", "gptq")
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(tmp_path / "model")
    common = (
        f"model.name={tmp_path / 'model'}",
        "quantization=gptq",
        "task=generate",
        "task.format=raw",
        "task.prompt=ab",
    )
    done = runner(
        "model=local",
        *common,
        "quantization.int8_activations=true",
        "generation.max_new_tokens=2",
        "tracking=none",
        "print=json",
    )
    assert done.code == 0, done.err
    assert done.json()["metrics"]["quantized_modules"] == 14
    line = next(line for line in done.err.splitlines() if "gptq, rows in 8 bits: " in line)
    assert "14 of 15 linear layers" in line
