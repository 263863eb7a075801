"""Quantized layers give the results of their library's own functions, which are restored
afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import processors
import pytest
import torch
from families import save_peft
from library_layers import layer_of
from opening import adapt, load_base, make_spec, open_engine
from streams import complete, requests
from torch import nn

from runner_base.dtypes import Dtype
from runner_engine.devices.heap import HeapTrimmer
from runner_engine.kernels import native
from runner_engine.local.engine import LocalEngine
from runner_engine.matmul.quantized_layers import QuantizedLayers
from runner_engine.quantization.base import QuantizationConfig
from runner_engine.quantization.bitsandbytes import Fp4Config, Int8Config, Nf4Config
from runner_engine.quantization.torchao import Int8DynamicConfig
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.lora import PeftConfig
from runner_engine.settings.model import LocalModelConfig
from runner_engine.spec import ModelSpec

Saved = Callable[..., Path]
BUILT = native.load_kernels()
has_kernels = pytest.mark.skipif(BUILT is None, reason="the kernels are not built here")
exact = processors.needs("vnni", why="torchao's own sums, which saturate without, are not emulated")
packed = processors.needs("bf16", why="bitsandbytes' packed weights are not emulated")


@pytest.mark.sampled(20)
@has_kernels
@pytest.mark.parametrize(
    ("kind", "inputs", "outputs", "keys"),
    [
        pytest.param("nf4", 192, 96, {}, marks=packed),
        pytest.param("nf4", 64, 32, {"double_quant": False}, marks=packed),
        pytest.param("nf4", 192, 96, {"compute_dtype": torch.float32}, marks=packed),
        pytest.param("nf4", 1088, 96, {}, marks=packed),  # stretches of a panel
        pytest.param("fp4", 128, 160, {}, marks=packed),
        ("int8", 192, 96, {}),
        ("int8", 72, 50, {}),  # parts of everything
        ("int8", 72, 50, {"threshold": 0.0}),
        ("int8", 1090, 70, {}),
        ("int8", 130, 33, {"threshold": 0.5}),  # many columns have outliers
        ("torchao_int8", 612, 64, {}),
    ],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_outputs_are_the_librarys_own(
    kind: str, inputs: int, outputs: int, keys: dict[str, Any], threads: int
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for bias in (False, True):
            layer = layer_of(kind, inputs, outputs, bias, **keys)
            own = layer.forward
            # the library arranges its weights in the first pass
            layer(torch.ones(1, inputs, dtype=torch.bfloat16))
            found = QuantizedLayers(
                nn.ModuleList([nn.Embedding(1, 1, dtype=torch.bfloat16), layer]), HeapTrimmer()
            )
            assert (found.replaced_layers, found.left, found.notes) == ([layer], [], [])
            for count in (1, 2, 3, 4, 5, 12, 13, 29, 200):
                rows = torch.randn(count, inputs).to(torch.bfloat16)
                rows[-1, 5], rows[0, 7] = 60.0, -9.5
                expected, ours = own(rows).float(), layer(rows).float()
                # one rounding to bfloat16 apart at most; nearly all are the same to the bit
                assert ((ours - expected).abs() <= expected.abs() / 127 + 1e-4 * expected.abs().max()).all()
                assert (ours == expected).float().mean() > 0.97, "float16 for bfloat16 would change more"
                assert torch.equal(layer(rows[None])[0].float(), ours)
    finally:
        torch.set_num_threads(before)


@has_kernels
@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize("count", [2, 9])
def test_nan_stays_nan(kind: str, count: int) -> None:
    layer = layer_of(kind, 64, 32, bias=False)
    QuantizedLayers(nn.ModuleList([nn.Embedding(1, 1, dtype=torch.bfloat16), layer]), HeapTrimmer())
    rows = torch.ones(count, 64, dtype=torch.bfloat16)
    rows[1, 3] = float("nan")
    found = layer(rows)
    assert found[1].isnan().all()
    assert found[0].isfinite().all()


def spec_of(folder: Path, quantization: QuantizationConfig, **groups: Any) -> ModelSpec:
    model = LocalModelConfig(name=str(folder), device="cpu", dtype=Dtype.bfloat16)
    generation = GenerationConfig(max_new_tokens=6)
    return make_spec(model=model, quantization=quantization, generation=generation, **groups)


def engine_of(folder: Path, quantization: QuantizationConfig, **groups: Any) -> LocalEngine:
    return open_engine(spec_of(folder, quantization, **groups))


def quantized(model: Any) -> list[Any]:
    return [one for one in model.modules() if isinstance(one, nn.Linear) and type(one) is not nn.Linear]


@pytest.mark.thorough
@has_kernels
@pytest.mark.parametrize("quantization", [Nf4Config(), Int8Config()], ids=["nf4", "int8"])
def test_weights_stay_and_functions_are_put_back(
    saved_family: Saved, quantization: QuantizationConfig
) -> None:
    engine = engine_of(saved_family("llama", max_position_embeddings=512), quantization)
    asked = requests()
    complete(engine, asked)
    model = engine.loaded.model
    layers = quantized(model)
    assert len(layers) == 14
    assert all("forward" in vars(layer) for layer in layers)
    held = [layer.weight.data.clone() for layer in layers]
    complete(engine, asked)
    assert engine.stats.notes == []
    engine.close()
    assert not any("forward" in vars(layer) for layer in layers)
    assert all(torch.equal(layer.weight.data, before) for layer, before in zip(layers, held, strict=True))


@pytest.mark.sampled(1)
@has_kernels
@pytest.mark.parametrize(
    "quantization",
    [Fp4Config(), Int8Config(), pytest.param(Int8DynamicConfig(), marks=exact)],
    ids=["fp4", "int8", "int8_dynamic"],
)
def test_an_adapter_over_quantized_layers_counts(
    saved_family: Saved, quantization: QuantizationConfig, tmp_path: Path
) -> None:
    folder = saved_family("llama")
    adapter = PeftConfig(path=str(save_peft(tmp_path / "adapter", folder)))
    spec = spec_of(folder, quantization, lora=adapter)
    model = adapt(load_base(spec), spec).model
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        own = model(ids).logits.float()
        found = QuantizedLayers(model, HeapTrimmer())
        ours = model(ids).logits.float()
    assert (len(found.replaced_layers), found.left) == (14, [])
    assert (ours - own).abs().max() <= 0.05 * own.std()


@pytest.mark.parametrize("quantization", [Nf4Config(), Int8Config()], ids=["nf4", "int8"])
def test_without_kernels_layers_keep_their_own_and_say_so(
    saved_family: Saved, quantization: QuantizationConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "load_kernels", lambda: None)
    engine = engine_of(saved_family("llama", max_position_embeddings=512), quantization)
    complete(engine, requests())
    instead = [one.values["instead"] for one in engine.stats.notes if one.code == "slow_layers"]
    kinds = [one.values.get("kind", one.values.get("what")) for one in instead]
    assert kinds == [type(quantized(engine.loaded.model)[0]).__name__]
    engine.close()
