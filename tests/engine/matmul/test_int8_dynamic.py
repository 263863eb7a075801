"""int8 of weights and rows: every way to compute it gives the bits of its formula, and each row its
own."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import processors
import pytest
import torch
from opening import make_spec, open_engine
from portable_kernels import TARGETS, built_for, function_for, has_compiler, is_x86, product_by
from refusals import refusal
from streams import complete, requests
from torch import nn

from runner_base.dtypes import Dtype
from runner_base.notes import Note, note
from runner_engine.devices.heap import HeapTrimmer
from runner_engine.kernels import native
from runner_engine.kernels.c_interface import WeightFormat
from runner_engine.kernels.matrix_structures import Matrix
from runner_engine.matmul import int8_dynamic
from runner_engine.matmul.layer_weights import (
    QuantizedWeights,
    compute_shift_correction,
    multiply_with_kernel,
)
from runner_engine.matmul.quantized_layers import QuantizedLayers
from runner_engine.quantization.torchao import Int8DynamicConfig
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig

pytest.importorskip("torchao", reason="the optional torchao is not installed")

Saved = Callable[..., Path]
KERNELS = native.load_kernels()
has_kernels = pytest.mark.skipif(KERNELS is None, reason="there is no C compiler")
has_vnni = processors.needs("vnni", why="torchao's own sums, which saturate without, are not emulated")
SHAPES = ((192, 96), (72, 50), (1090, 70), (130, 33), (3, 5))
COUNTS = (1, 2, 3, 4, 5, 12, 29, 200)


def layer_of(inputs: int, outputs: int, dtype: torch.dtype, bias: bool, **keys: Any) -> Any:
    """A layer that torchao has quantized."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    torch.manual_seed(inputs + outputs)
    layer = nn.Linear(inputs, outputs, bias, dtype=dtype)
    quantize_(layer, Int8DynamicActivationInt8WeightConfig(set_inductor_config=False, **keys))
    return layer.eval()


def exchange(layer: Any) -> QuantizedLayers:
    return QuantizedLayers(
        nn.ModuleList([nn.Embedding(1, 1, dtype=layer.weight.dtype), layer]), HeapTrimmer()
    )


def rows_of(count: int, inputs: int, dtype: torch.dtype) -> torch.Tensor:
    """Rows of very different sizes: one with a large number, one that is nearly zero, one of
    zeros."""
    rows = torch.randn(count, inputs)
    rows[-1, 2] = 60
    rows[0] *= 1e-9 if count == 5 else 1
    rows[1:2] *= count != 12
    return rows.to(dtype)


def round_as(numbers: np.ndarray[Any, Any], dtype: torch.dtype) -> np.ndarray[Any, Any]:
    return torch.from_numpy(np.asarray(numbers, np.float32)).to(dtype).float().numpy()


def by_formula(layer: Any, rows: torch.Tensor) -> torch.Tensor:
    """The outputs in numpy: sums of integers, and float32 that is rounded to the format of the rows
    twice."""
    x, weight = rows.float().numpy(), layer.weight.qdata.numpy().astype(np.int64)
    scale = np.maximum(
        round_as(np.abs(x).max(1, keepdims=True) / np.float32(127.5), rows.dtype), np.float32(2**-23)
    )
    numbers = np.clip(np.rint(x * (np.float32(1) / scale)), -128, 127).astype(np.int64)
    outputs = round_as((numbers @ weight.T).astype(np.float32) * scale, rows.dtype)
    outputs = outputs * layer.weight.scale.numpy().reshape(-1)
    if layer.bias is not None:
        outputs = outputs + layer.bias.detach().float().numpy()
    return torch.from_numpy(outputs).to(rows.dtype)


@pytest.mark.thorough
@has_kernels
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("threads", [1, 2])
def test_every_way_gives_the_bits_of_the_formula(dtype: torch.dtype, threads: int) -> None:
    assert KERNELS is not None
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for (inputs, outputs), bias in product(SHAPES, (False, True)):
            layer = layer_of(inputs, outputs, dtype, bias)
            own, by_torch = layer.forward, int8_dynamic.build_exact_forward(layer)
            found = exchange(layer)
            assert (found.replaced_layers, found.left, found.notes) == ([layer], [], [])
            for count in COUNTS:
                rows = rows_of(count, inputs, dtype)
                expected = by_formula(layer, rows)
                for name, outcome in (("kernels", layer(rows)), ("torch", by_torch(rows))):
                    assert torch.equal(outcome, expected), (name, inputs, outputs, bias, count)
                assert torch.equal(layer(rows[None])[0], expected)
                if KERNELS.has_quantized:
                    assert torch.equal(own(rows), expected), "torchao's own"
    finally:
        torch.set_num_threads(before)


@has_kernels
@pytest.mark.parametrize("count", [3, 40])
def test_a_row_does_not_depend_on_the_rows_beside_it(count: int) -> None:
    layer = layer_of(192, 96, torch.bfloat16, bias=True)
    exchange(layer)
    rows = rows_of(count, 192, torch.bfloat16)
    rows[1] *= 1000  # LLM.int8() would multiply columns of all rows in another way
    together = layer(rows)
    alone = torch.cat([layer(row[None]) for row in rows])
    assert torch.equal(together, alone)
    rows[2, 7] = float("nan")
    beside = layer(rows)
    assert beside[2].isnan().all()
    assert torch.equal(beside[:2], alone[:2])


@has_kernels
def test_large_sums_do_not_saturate() -> None:
    layer = layer_of(2048, 64, torch.float32, bias=False)
    layer.weight.qdata.fill_(127)
    exchange(layer)
    for forward in (layer.forward, int8_dynamic.build_exact_forward(layer)):
        outputs = forward(torch.ones(5, 2048))
        assert torch.equal(outputs, by_formula(layer, torch.ones(5, 2048)))
        scale = layer.weight.scale.flatten()
        assert outputs.allclose((127 * 127 * 2048 / 127.5) * scale.expand(5, -1)), (
            "a sum of pairs has 17 bits"
        )


@pytest.mark.thorough
@has_compiler
@is_x86
def test_products_of_bytes_without_avx512_are_compiled() -> None:
    """AVX-VNNI is the instruction of AVX-512 in another encoding, which this processor may lack."""
    library = built_for("x86-64-v3 -mavxvnni")
    code = subprocess.run(["objdump", "-d", str(library)], check=True, capture_output=True, text=True).stdout
    assert "{vex} vpdpbusd" in code
    assert "zmm" not in code


@pytest.mark.sampled(1)
@has_compiler
@is_x86
@pytest.mark.parametrize("target", TARGETS)
def test_processors_without_products_of_bytes_and_bfloat16_have_the_same_bits(target: str) -> None:
    function = function_for(target)
    for (inputs, outputs), bias in product(SHAPES, (False, True)):
        layer = layer_of(inputs, outputs, torch.bfloat16, bias)
        weights = QuantizedWeights(WeightFormat.int8_dynamic, inputs, outputs, ())
        weights.set_tensors_read_by_c(
            layer.weight.qdata,
            layer.bias,
            layer.weight.scale.flatten(),
            compute_shift_correction(layer.weight.qdata),
        )
        for count in COUNTS:
            rows = rows_of(count, inputs, torch.bfloat16)
            assert torch.equal(product_by(function, rows, weights), by_formula(layer, rows)), (
                inputs,
                outputs,
                bias,
                count,
            )


@has_kernels
def test_what_c_refuses() -> None:
    assert KERNELS is not None
    layer, rows = (layer_of(64, 32, torch.bfloat16, bias=False), torch.ones(2, 64, dtype=torch.bfloat16))
    weights = exchange(layer).matrices[layer]
    with pytest.raises(IndexError, match=refusal("SMALL_WORKSPACE")):
        multiply_with_kernel(KERNELS, rows, weights, torch.empty(64, dtype=torch.uint8))
    assert isinstance(weights, QuantizedWeights)
    weights.matrix = Matrix(outputs=32, kind=WeightFormat.int8_dynamic)
    with pytest.raises(IndexError, match=refusal("WRONG_MATRIX")):
        multiply_with_kernel(KERNELS, rows, weights, torch.empty(10**6, dtype=torch.uint8))


@has_kernels
@pytest.mark.parametrize("keys", [{"act_mapping_type": "ASYMMETRIC"}, {"reduce_range": True}])
def test_other_ways_of_torchao_keep_their_own_function(keys: dict[str, Any]) -> None:
    from torchao.quantization import MappingType

    keys = {
        name: getattr(MappingType, value) if isinstance(value, str) else value for name, value in keys.items()
    }
    layer = layer_of(64, 32, torch.bfloat16, bias=False, **keys)
    found = exchange(layer)
    assert (found.replaced_layers, found.left) == ([], [layer])
    assert found.notes[0].values["instead"].code == "multiplied_by_library"
    assert found.notes[0].values["reason"] == note("other_rows")
    assert "forward" not in vars(layer)


def answers(folder: Path) -> tuple[dict[Any, list[int]], list[Note], str]:
    model = LocalModelConfig(name=str(folder), device="cpu", dtype=Dtype.bfloat16)
    spec = make_spec(
        model=model, quantization=Int8DynamicConfig(), generation=GenerationConfig(max_new_tokens=6)
    )
    engine = open_engine(spec)
    done = complete(engine, requests())
    notes, quantized = engine.stats.notes, str(engine.loaded.facts["quantized"])
    layers = [layer for layer in engine.loaded.model.modules() if isinstance(layer, nn.Linear)]
    engine.close()
    assert not any("forward" in vars(layer) for layer in layers), "every layer has its own function back"
    return done, notes, quantized


@has_kernels
@has_vnni
def test_a_model_answers_the_same_on_every_processor(
    saved_family: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved_family("llama", max_position_embeddings=512)
    assert KERNELS is not None
    with_bytes = answers(folder)
    assert with_bytes[1] == []
    assert "14 Int8Tensor" in with_bytes[2]
    monkeypatch.setattr(native, "load_kernels", lambda: None)
    tokens, notes, _ = answers(folder)
    by_torch = note("multiplied_by_torch", what="Linear")
    slow = note("slow_layers", instead=by_torch, reason=note("needs_compiler"))
    assert [one for one in notes if one.code == "slow_layers"] == [slow]
    assert len(tokens) == len(with_bytes[0])
