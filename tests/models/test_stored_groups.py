"""Checkpoints of GPTQ, AWQ, AutoRound and compressed-tensors are read without any of these packages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grouped_checkpoints as made
import pytest
import torch
from grouped_checkpoints import CHOICE_OF, STORED
from opening import adapt, load_base
from transformers import AutoTokenizer

from runner.config.model import LocalConfig
from runner.config.root import RunnerConfig
from runner.core.dtypes import Dtype
from runner.models.group_layouts import unpack_stream
from runner.models.grouped import GroupedLinear
from runner.models.load import Loaded
from runner.quantization import CHOICES
from runner.quantization.base import QuantizationConfig
from runner.quantization.grouped import AutoRoundConfig, AwqConfig, GptqConfig, PackQuantizedConfig

Make = Callable[..., RunnerConfig]
IDS = torch.arange(3, 40)[None]
CLASSES = (AutoRoundConfig, AwqConfig, GptqConfig, PackQuantizedConfig)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Callable[..., tuple[Path, dict[str, Any]]]:
    """Return a function that saves a tiny model in a format, once, and returns the folder and its plain weights."""
    known: dict[str, tuple[Path, dict[str, Any]]] = {}

    def folder(name: str, **settings: Any) -> tuple[Path, dict[str, Any]]:
        key = repr((name, settings))
        if key not in known:
            path = tmp_path_factory.mktemp(name)
            known[key] = path, made.save(path, name, **settings)
            AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(path)
        return known[key]

    return folder


def configure(
    make_config: Make, folder: Path, choice: QuantizationConfig | None = None, dtype: Dtype = Dtype.float32, **more: Any
) -> RunnerConfig:
    model = LocalConfig(name=str(folder), device="cpu", dtype=dtype)
    return make_config(model=model, quantization=choice or QuantizationConfig(), **more)


def load(make_config: Make, folder: Path, *arguments: Any, **more: Any) -> Loaded:
    config = configure(make_config, folder, *arguments, **more)
    return adapt(load_base(config), config)


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(IDS).logits.float()


@pytest.mark.parametrize("bits", range(2, 9))
def test_a_stream_of_bits(bits: int) -> None:
    numbers = torch.randint(2**bits, (3, 70), generator=torch.Generator().manual_seed(bits))
    assert torch.equal(unpack_stream(made.pack(numbers, bits), bits, 70), numbers.byte())


@pytest.mark.parametrize("name", STORED)
@pytest.mark.parametrize("dtype", [Dtype.float32, Dtype.bfloat16])
def test_each_format_equals_its_plain_weights(make_config: Make, saved: Any, name: str, dtype: Dtype) -> None:
    from transformers import AutoConfig, LlamaForCausalLM

    folder, plain = saved(name)
    choice = CHOICES[CHOICE_OF[name]]()
    assert isinstance(choice, CLASSES)
    loaded = load(make_config, folder, choice, dtype)
    layers = [one for one in loaded.model.modules() if isinstance(one, GroupedLinear)]
    assert len(layers) == 14
    of = getattr(torch, dtype.value)
    for path, layer in loaded.model.named_modules():
        if isinstance(layer, GroupedLinear):
            expected = plain[f"{path}.weight"].to(of)
            assert torch.equal(layer.unpacked(0, layer.out_features, of), expected), path
            assert torch.equal(layer.unpacked(9, 20, of), expected[9:20])
    assert loaded.facts["quantized"] == f"{choice.name}: 14 of 15 linear layers (14 GroupedLinear)"
    assert loaded.facts["left_alone"] == "lm_head"
    settings = AutoConfig.from_pretrained(folder)
    del settings.quantization_config
    reference = LlamaForCausalLM._from_config(settings, dtype=of).eval()
    reference.load_state_dict({key: tensor.to(of) for key, tensor in plain.items()})
    assert torch.equal(logits(loaded.model), logits(reference))
    assert loaded.metrics["parameters"] == reference.num_parameters()
