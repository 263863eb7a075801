"""An adapter merged before or after quantizing: each order is what its steps give when they are
done by hand."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families import PEFT_WARNS, save_peft
from loading import load, logits
from raising import raises
from safetensors.torch import load_file, save_file

from runner_base.dtypes import Dtype
from runner_base.errors import ConfigError
from runner_engine.models.lora.dequantization import dequantize_linear
from runner_engine.quantization import CHOICES
from runner_engine.quantization.base import QuantizationConfig
from runner_engine.quantization.bitsandbytes import Int8Config, Nf4Config
from runner_engine.settings.lora import LoraConfig, MergeOrder, PeftConfig

FIRST, AFTER = MergeOrder.merge_first, MergeOrder.quantize_first
MADE: list[QuantizationConfig] = [
    Nf4Config(), Int8Config(), *(CHOICES[name]() for name in ("torchao_int8", "int8_dynamic", "torchao_intx", "hqq")),
]  # fmt: skip


@pytest.fixture(scope="module")
def base(saved_family: Callable[..., Path]) -> Path:
    return saved_family("llama", dtype="bfloat16")


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_peft(tmp_path_factory.mktemp("adapter"), base)


@pytest.fixture(scope="module")
def lacking(adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapter without what it does to one layer."""
    folder = tmp_path_factory.mktemp("lacking")
    shutil.copytree(adapter, folder, dirs_exist_ok=True)
    tensors = load_file(folder / "adapter_model.safetensors")
    left = {
        name: 0 * numbers if "layers.1.self_attn.q_proj" in name else numbers
        for name, numbers in tensors.items()
    }
    save_file(left, folder / "adapter_model.safetensors", {"format": "pt"})
    return folder


def with_peft(model: Any, adapter: Path) -> Any:
    """Return the model merged as PEFT merges it."""
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=PEFT_WARNS, category=FutureWarning)
        warnings.filterwarnings("ignore", message="Merge lora module to 4-bit")
        return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()


@pytest.fixture(scope="module")
def merged(base: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model in bfloat16 that PEFT has merged and saved."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("merged")
    shutil.copytree(base, folder, dirs_exist_ok=True)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    with_peft(plain, adapter).save_pretrained(folder)
    return folder


@pytest.mark.sampled(2)
@pytest.mark.parametrize("quantization", MADE, ids=lambda choice: choice.name)
def test_merged_first_is_the_merged_model_quantized(
    base: Path, adapter: Path, lacking: Path, merged: Path, quantization: QuantizationConfig
) -> None:
    expected = load(merged, quantization)
    lora = PeftConfig(path=str(adapter), merge=True, merge_order=FIRST)
    found = load(base, quantization, lora=lora)
    assert torch.equal(logits(found), logits(expected))
    assert found.metrics["quantized_modules"] == expected.metrics["quantized_modules"]
    assert found.metrics["weight_mib"] == expected.metrics["weight_mib"]
    assert "merged into the weights, then quantized" in found.facts["lora"]
    control = load(base, quantization, lora=replace(lora, path=str(lacking)))
    assert not torch.equal(logits(control), logits(expected)), "one layer left out is seen"


@pytest.mark.sampled(1)
@pytest.mark.parametrize("quantization", MADE, ids=lambda choice: choice.name)
def test_quantized_first_is_near_the_adapter_beside_the_weights(
    base: Path, adapter: Path, lacking: Path, quantization: QuantizationConfig
) -> None:
    lora = PeftConfig(path=str(adapter), merge=True, merge_order=AFTER)
    found = load(base, quantization, lora=lora)
    beside, without, of_lacking = (
        logits(load(base, quantization, lora=one))
        for one in (PeftConfig(path=str(adapter)), LoraConfig(), PeftConfig(path=str(lacking)))
    )
    away, away_without, away_lacking = ((logits(found) - it).norm() for it in (beside, without, of_lacking))
    assert 0 < away < 0.7 * away_without, "it is merged, and quantized again"
    assert away < away_lacking
    assert "merged into the dequantized weights, then quantized again" in found.facts["lora"]


def test_quantized_first_is_as_peft_merges(base: Path, adapter: Path, lacking: Path) -> None:
    """In float32: PEFT adds in the numbers of its adapter, whatever the model's are."""
    usual = load(base, Nf4Config(compute_dtype=Dtype.float32), Dtype.float32)
    expected = with_peft(usual.model, adapter)
    for place, is_same in ((adapter, True), (lacking, False)):
        lora = PeftConfig(path=str(place), merge=True, merge_order=AFTER)
        found = load(base, Nf4Config(compute_dtype=Dtype.float32), Dtype.float32, lora=lora).model
        equal = [
            torch.equal(one.weight, other.weight)
            for one, other in zip(linear_of(found), linear_of(expected), strict=True)
        ]
        assert all(equal) == is_same


def linear_of(model: Any) -> list[Any]:
    layers = [module for module in model.modules() if type(module).__name__ == "Linear4bit"]
    return [dequantize_linear(layer, torch.float32) for layer in layers]


def test_in_which_numbers_weights_and_adapter_are_added(base: Path, adapter: Path) -> None:
    lora = PeftConfig(path=str(adapter), merge=True)
    whole, rounded = (
        load(base, dtype=Dtype.float32, lora=replace(lora, merge_dtype=dtype))
        for dtype in (Dtype.auto, Dtype.bfloat16)
    )
    assert rounded.facts["lora"].endswith("merged into the weights, added in bfloat16")
    for name, weight in whole.model.named_parameters():
        other = rounded.model.get_parameter(name)
        assert other.dtype == torch.float32
        is_adapted = name.endswith(("q_proj.weight", "down_proj.weight"))
        assert torch.equal(other, weight.bfloat16().float() if is_adapted else weight), name
        assert is_adapted != torch.equal(other, weight), name


def test_the_order_must_be_said_where_something_is_quantized(base: Path, adapter: Path) -> None:
    lora = PeftConfig(path=str(adapter), merge=True)
    with raises(ConfigError, "missing"):
        load(base, Nf4Config(), lora=lora)
    with raises(ConfigError, "no_effect"):
        load(base, lora=replace(lora, merge_order=FIRST))
    with raises(ConfigError, "no_effect", "lora.merge_dtype"):
        PeftConfig(path=str(adapter), merge_dtype=Dtype.float32)
