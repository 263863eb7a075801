"""The experts of a mixture are quantized, each matrix as its library quantizes a matrix, and the
plan knows it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from intx_configs import INTX, intx_config
from mixtures import MIXTURES, mixture
from opening import make_spec
from raising import raises
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoTokenizer

from runner_base import ConfigError, machine
from runner_engine.checkpoints import adapter_shapes
from runner_engine.checkpoints.linear_layers import plan_model_quantization
from runner_engine.checkpoints.resolved_model import resolve_model
from runner_engine.experts import SeparateExperts, separate_all_experts
from runner_engine.models.base_loading import LoadedModel, load_base_model
from runner_engine.models.grouped_linear import GroupedLinear
from runner_engine.plan import format_check
from runner_engine.plan.footprint import predict_footprint
from runner_engine.quantization import CHOICES
from runner_engine.quantization.base import QuantizationConfig
from runner_engine.quantization.bitsandbytes import Nf4Config
from runner_engine.quantization.torchao import TorchaoIntxConfig
from runner_engine.settings.model import LocalModelConfig
from tools.library_bits import are_equal, made_by_library

FORMATS = ("nf4", "fp4", "int8", "int8_dynamic", "torchao_int8", "torchao_float8", "hqq")
FAMILIES = sorted(MIXTURES)


@pytest.fixture(scope="module")
def folder_of(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that saves a mixture in bfloat16 with a tokenizer, once."""
    folders: dict[str, Path] = {}

    def folder(family: str, is_bin: bool = False) -> Path:
        key = f"{family} {is_bin}"
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp(family)
            model = mixture(family).to(torch.bfloat16)
            model.save_pretrained(folders[key])
            if is_bin:
                (folders[key] / "model.safetensors").unlink()
                torch.save(model.state_dict(), folders[key] / "pytorch_model.bin")
            AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(folders[key])
        return folders[key]

    return folder


@pytest.fixture
def job(folder_of: Callable[..., Path]) -> Callable[..., Any]:
    def of(
        family: str, quantization: QuantizationConfig, is_bin: bool = False, folder: Path | None = None
    ) -> Any:
        model = LocalModelConfig(name=str(folder or folder_of(family, is_bin)), device="cpu")
        return resolve_model(make_spec(model=model, quantization=quantization))

    return of


def experts_of(base: LoadedModel) -> dict[str, SeparateExperts]:
    return {path: one for path, one in base.model.named_modules() if isinstance(one, SeparateExperts)}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", FORMATS)
def test_experts_are_quantized_as_the_library_does_and_the_plan_knows_it(
    job: Callable[..., Any], family: str, name: str
) -> None:
    resolved = job(family, CHOICES[name]())
    format_check.check_checkpoint_format(resolved)
    predicted = predict_footprint(resolved, (1, 512, 24))
    walked = plan_model_quantization(resolved.files, resolved.quantization_mix, "cpu").share
    base = load_base_model(resolved)

    assert predicted is not None
    assert predicted.weight_mib == pytest.approx(sum(base.bytes_by_dtype.values()) / machine.MIB, rel=0.005)
    exactly = 0.006 if family == "llama4" else 1e-4  # whose router torchao takes for a linear layer
    assert base.metrics["quantized_share"] == pytest.approx(walked.of_blocks, abs=exactly)
    assert base.metrics["quantized_share_of_all"] == pytest.approx(walked.of_all, abs=exactly)
    assert walked.of_bytes == pytest.approx(base.metrics["quantized_share_of_bytes"], abs=max(exactly, 0.005))
    assert walked.of_blocks > 0.95
    assert "experts" not in base.facts["left_alone"]
    assert {note.code for note in base.notes}.isdisjoint({"unused_tensors", "quantizes_only"})

    found = experts_of(base)
    others = separate_all_experts(mixture(family).to(torch.bfloat16))
    assert [*others] == [*found]
    path = [*found][-1]
    for matrix in found[path].form.matrices:
        layers = [others[path].get_expert(number).get_submodule(matrix) for number in (5, 6)]
        taken, other = (made_by_library(base, resolved.quantization_mix.base, layer) for layer in layers)
        own = found[path].get_expert(5).get_submodule(matrix)
        assert type(own) is type(taken)
        assert are_equal(own, taken)
        assert not are_equal(own, other)  # the control: another expert


@pytest.mark.sampled(1)
@pytest.mark.parametrize("family", ["gpt_oss", "mixtral"])
@pytest.mark.parametrize("choice", INTX)
def test_integers_in_groups_are_those_of_torchao(
    job: Callable[..., Any], family: str, choice: TorchaoIntxConfig
) -> None:
    from torchao.quantization import quantize_

    resolved = job(family, choice)
    predicted = predict_footprint(resolved, (1, 512, 24))
    base = load_base_model(resolved)
    assert predicted is not None
    assert predicted.weight_mib == pytest.approx(sum(base.bytes_by_dtype.values()) / machine.MIB, rel=0.005)
    assert base.metrics["quantized_share"] > 0.95

    others = separate_all_experts(mixture(family).to(torch.bfloat16))
    for path, experts in experts_of(base).items():
        for matrix in experts.form.matrices:
            own = experts.get_expert(5).get_submodule(matrix)
            assert isinstance(own, GroupedLinear)
            numbers = own.dequantize_outputs(0, own.out_features, torch.bfloat16)
            for number in (5, 6):  # the second one is the control
                layer: Any = others[path].get_expert(number).get_submodule(matrix)
                taken = nn.Linear(layer.in_features, layer.out_features, bias=False, dtype=torch.bfloat16)
                taken.weight.data.copy_(layer.weight)
                quantize_(taken, intx_config(choice))
                assert torch.equal(numbers, taken.weight.dequantize()) == (number == 5)


def test_a_mix_reaches_experts_one_by_one(job: Callable[..., Any]) -> None:
    resolved = job(
        "mixtral", Nf4Config(skip=["experts.3"], overrides={"layers.1.mlp.experts.2.down_proj": "int8"})
    )
    format_check.check_checkpoint_format(resolved)
    walked = plan_model_quantization(resolved.files, resolved.quantization_mix, "cpu").share
    base = load_base_model(resolved)
    layers = {
        name: type(base.model.get_submodule(f"model.layers.1.mlp.experts.{name}")).__name__ for name in PLACES
    }
    assert layers == dict(zip(PLACES, ("Linear4bit", "Linear", "Linear8bitLt", "Linear4bit"), strict=True))
    assert base.metrics["quantized_share"] == pytest.approx(walked.of_blocks, abs=1e-4)
    predicted = predict_footprint(resolved, (1, 512, 24))
    assert predicted is not None
    assert predicted.weight_mib == pytest.approx(sum(base.bytes_by_dtype.values()) / machine.MIB, rel=0.005)
    assert base.metrics["quantized_share_of_wanted"] > 0.99


PLACES = ("2.gate_proj", "3.gate_proj", "2.down_proj", "7.down_proj")


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss"])
def test_experts_that_a_mix_leaves_plain_stay_fused(job: Callable[..., Any], family: str) -> None:
    resolved = job(family, Nf4Config(skip=["experts"]))
    format_check.check_checkpoint_format(resolved)
    base = load_base_model(resolved)
    assert not experts_of(base)
    assert base.metrics["quantized_share_of_wanted"] > 0.9
    predicted = predict_footprint(resolved, (1, 512, 24))
    assert predicted is not None
    assert predicted.weight_mib == pytest.approx(sum(base.bytes_by_dtype.values()) / machine.MIB, rel=0.005)


@pytest.mark.parametrize("name", ["nf4", "hqq"])
def test_without_headers_the_experts_of_a_loaded_model_are_quantized(
    job: Callable[..., Any], name: str
) -> None:
    from_bin, with_headers = (
        load_base_model(job("mixtral", CHOICES[name](), is_bin)) for is_bin in (True, False)
    )
    assert from_bin.metrics["quantized_share"] == with_headers.metrics["quantized_share"] > 0.95
    for path, experts in experts_of(from_bin).items():
        for inner, layer in experts.named_modules():
            if hasattr(layer, "in_features"):
                assert are_equal(layer, with_headers.model.get_submodule(f"{path}.{inner}"))


def test_a_checkpoint_without_one_of_its_experts_is_refused(
    job: Callable[..., Any], folder_of: Callable[..., Path], tmp_path: Path
) -> None:
    shutil.copytree(folder_of("mixtral"), tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.block_sparse_moe.experts.4.w2.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    resolved = job("mixtral", Nf4Config(), folder=tmp_path)
    with raises(ConfigError, "damaged") as raised:
        load_base_model(resolved)
    assert "model.layers.1.mlp.experts.4.down_proj.weight" in raised.value.reason


def test_with_a_device_map_experts_stay_as_they_are_and_it_is_refused(job: Callable[..., Any]) -> None:
    resolved = job("qwen3_moe", Nf4Config())
    resolved.files.model.device_map = "auto"
    with raises(ConfigError, "unsupported"):
        format_check.check_checkpoint_format(resolved)


def test_an_adapter_of_fused_experts_is_refused_where_each_is_quantized(
    job: Callable[..., Any], tmp_path: Path
) -> None:
    of_attention, of_experts = ("self_attn.o_proj", "mlp.experts.base_layer")
    for place in (of_attention, of_experts):
        path = f"base_model.model.model.layers.1.{place}"
        matrices = {f"{path}.lora_{side}.weight": torch.zeros(4, 4) for side in "AB"}
        save_file(matrices, tmp_path / "adapter_model.safetensors")
        for choice in (Nf4Config(), Nf4Config(skip=["experts"]), QuantizationConfig()):
            resolved = job("mixtral", choice)
            resolved.files.__dict__["adapter"] = tmp_path
            if choice.packed and not choice.skip and place == of_experts:
                with raises(ConfigError, "conflict", "quantization"):
                    adapter_shapes.check_adapter_allows_separate_experts(
                        resolved.files, resolved.quantization_mix
                    )
            else:
                adapter_shapes.check_adapter_allows_separate_experts(
                    resolved.files, resolved.quantization_mix
                )
