"""Checkpoints with the shape of known models and random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from opening import adapt, load_base, make_spec, predict
from raising import raises

from runner_base.errors import ConfigError
from runner_engine.checkpoints import random_weights
from runner_engine.checkpoints.locating import locate_model
from runner_engine.checkpoints.resolved_model import resolve_model
from runner_engine.quantization.bitsandbytes import Nf4Config
from runner_engine.settings.model import LocalModelConfig

PRESETS = sorted(file.stem for file in random_weights.SHAPES_DIR.glob("*.json"))
MILLIONS = {  # as the models' own pages say, tied weights once
    "smollm2_135m": 134.5,
    "llama32_1b": 1235.8,
    "qwen2_05b_instruct": 494.0,
    "qwen25_15b_instruct": 1543.7,
    "qwen25_7b_instruct": 7615.6,
    "qwen15_18b_chat": 1836.8,
    "qwen3_8b": 8190.7,
    "mistral_7b_instruct": 7248.0,
}


@pytest.mark.thorough
@pytest.mark.parametrize("preset", PRESETS)
def test_tensors_are_those_of_the_real_class(preset: str) -> None:
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = random_weights.read_preset_config(LocalModelConfig(name="x", shape=preset))
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape))
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    if shape["tie_word_embeddings"]:
        expected.pop("lm_head.weight", None)
    tensors = random_weights.list_random_checkpoint_tensors(shape)
    assert {tensor.name: tensor.shape for tensor in tensors} == expected
    assert sum(tensor.num_elements for tensor in tensors) / 1e6 == pytest.approx(MILLIONS[preset], abs=0.1)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalModelConfig:
    """A small shape besides the presets, and an own cache."""
    shape = json.loads((random_weights.SHAPES_DIR / "qwen2_05b_instruct.json").read_text())
    shape |= {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2, "vocab_size": 1024}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
    (tmp_path / "small.json").write_text(json.dumps(shape))
    monkeypatch.setattr(random_weights, "SHAPES_DIR", tmp_path)
    return LocalModelConfig(
        name="x", shape="small", random_weights=True, cache_dir=str(tmp_path / "cache"), device="cpu"
    )


def test_a_folder_like_any_other(small: LocalModelConfig) -> None:
    folder = locate_model(small)
    written = (folder / "model-00001-of-00001.safetensors").stat().st_mtime_ns
    assert locate_model(small) == folder
    assert (folder / "model-00001-of-00001.safetensors").stat().st_mtime_ns == written, "made once"
    spec = make_spec(model=small)
    loaded = adapt(load_base(spec), spec)
    assert loaded.facts["architecture"] == "Qwen2ForCausalLM"
    predicted = predict(spec, 1, 8, 8)
    assert predicted is not None
    assert predicted.weight_mib == pytest.approx(loaded.metrics["weight_mib"], rel=0.001)
    weights = loaded.model.model.layers[1].mlp.up_proj.weight.detach().float()
    assert float(weights.std()) == pytest.approx(0.02, rel=0.05)
    assert not torch.equal(weights[0], weights[1])
    with torch.inference_mode():
        assert torch.isfinite(loaded.model(torch.arange(5, 60)[None]).logits).all()


def test_it_quantizes_and_shards(small: LocalModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_weights, "SHARD_BYTES", 200_000)
    folder = locate_model(small)
    assert len(list(folder.glob("*.safetensors"))) > 1
    spec = make_spec(model=small, quantization=Nf4Config())
    assert adapt(load_base(spec), spec).metrics["quantized_modules"] == 14


def test_identity_needs_no_file(small: LocalModelConfig, tmp_path: Path) -> None:
    first = resolve_model(make_spec(model=small)).files.hash_files(tmp_path / "hashes.json")
    assert not Path(str(small.cache_dir)).exists(), "nothing was made to identify or to size it"
    assert predict(make_spec(model=small), 1, 8, 8) is not None
    assert not Path(str(small.cache_dir)).exists()
    (tmp_path / "small.json").write_text((tmp_path / "small.json").read_text().replace("192", "256"))
    assert resolve_model(make_spec(model=small)).files.hash_files(tmp_path / "hashes.json") != first


def test_a_model_without_a_known_shape() -> None:
    with raises(ConfigError, "missing"):
        locate_model(LocalModelConfig(name="x", random_weights=True))
    with raises(ConfigError, "unknown_choice"):
        locate_model(LocalModelConfig(name="x", shape="qwen3_8", random_weights=True))
