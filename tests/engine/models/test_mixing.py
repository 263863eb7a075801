"""Mixes for real: every pair of choices, what they compute beside the libraries' own, adapters and
memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import save_peft, save_pth
from families import settings as family_settings
from loading import configure, load, logits
from opening import predict
from raising import raises

from runner_base.dtypes import Dtype
from runner_base.errors import ConfigError
from runner_engine.quantization import CHOICES
from runner_engine.quantization.base import CheckpointSource, QuantizationConfig
from runner_engine.quantization.bitsandbytes import Int8Config, Nf4Config
from runner_engine.quantization.capabilities import can_quantize_layers
from runner_engine.settings.lora import PeftConfig, PthConfig

pytestmark = pytest.mark.slow  # as a group: `make test-fast` leaves them out

Saved = Callable[..., Path]
QUANTIZING = sorted(
    name
    for name, kind in CHOICES.items()
    if kind.source is CheckpointSource.plain and can_quantize_layers(kind)
)
LAYERS = 14  # of the tiny model: two blocks of seven


@pytest.mark.thorough
@pytest.mark.parametrize("name", QUANTIZING)
def test_all_layers_by_an_override_are_what_the_library_makes_of_the_model(
    saved_family: Saved, name: str
) -> None:
    folder = saved_family()
    whole = load(folder, CHOICES[name]())
    one_by_one = load(folder, QuantizationConfig(overrides={"layers": name}))
    assert one_by_one.metrics["quantized_modules"] == whole.metrics["quantized_modules"] == LAYERS
    assert one_by_one.metrics["parameters"] == whole.metrics["parameters"]
    assert one_by_one.bytes_by_dtype == whole.bytes_by_dtype
    assert torch.equal(logits(one_by_one), logits(whole))


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("base", "other"), list(itertools.permutations(["none", *QUANTIZING], 2)))
def test_every_pair_computes_each_layer_in_its_own_format(saved_family: Saved, base: str, other: str) -> None:
    folder = saved_family()
    pair = CHOICES[base](overrides={"down_proj": other})
    loaded = load(folder, pair)
    quantized = (LAYERS - 2) * CHOICES[base].packed + 2 * CHOICES[other].packed
    assert loaded.metrics["quantized_modules"] == quantized
    assert loaded.facts["quantized"].startswith(f"{base} (down_proj: {other}): ")
    assert f" ({quantized} of 15 linear layers: " in loaded.facts["quantized"]
    rows = torch.randn(5, 192, generator=torch.Generator().manual_seed(0)).bfloat16()
    wholes = {name: load(folder, CHOICES[name]()) for name in (base, other)}
    for path, name in (("mlp.down_proj", other), ("self_attn.o_proj", base)):
        ours, theirs = (one.model.model.layers[1].get_submodule(path) for one in (loaded, wholes[name]))
        with torch.inference_mode():
            assert torch.equal(ours(rows[:, : ours.in_features]), theirs(rows[:, : ours.in_features]))
    spec = configure(folder, pair)
    predicted = predict(spec, 1, 8, 8)
    assert predicted is not None
    buffers = sum(it.numel() * it.element_size() for it in wholes[base].model.buffers())
    assert sum(predicted.weights.values()) == pytest.approx(
        sum(loaded.bytes_by_dtype.values()) - buffers, rel=0.001
    )


@pytest.mark.parametrize("base", ["none", "nf4"])
def test_an_override_has_keys_of_its_own(saved_family: Saved, base: str) -> None:
    other = {"name": "nf4", "double_quant": False}
    loaded = load(saved_family(), CHOICES[base](overrides={"up_proj": other}))
    states = [layer.mlp.up_proj.weight.quant_state for layer in loaded.model.model.layers]
    assert [state.nested for state in states] == [False, False]


@pytest.mark.thorough
def test_more_skipped_layers_are_nearer_to_the_model_and_all_of_them_are_it(saved_family: Saved) -> None:
    folder = saved_family()
    plain = logits(load(folder, QuantizationConfig()))
    skipped: list[list[str]] = [[], ["mlp"], ["mlp", "v_proj", "o_proj"], ["*"]]
    off = []
    for skip in skipped:
        loaded = load(folder, Nf4Config(skip=skip))
        off.append((logits(loaded) - plain).norm().item())
    assert off == sorted(off, reverse=True)
    assert off[0] > off[-2] > off[-1] == 0
    assert loaded.facts["quantized"] == "none"
    assert loaded.facts["left_alone"] == "all 15 linear layers"


@pytest.mark.sampled(1)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_a_head_is_quantized_only_where_it_is_named_and_has_a_weight_of_its_own(
    saved_family: Saved, tied: bool
) -> None:
    folder = saved_family(tied=tied)
    for skip in ([], ["lm_head"]):
        loaded = load(folder, Nf4Config(skip=skip))
        assert loaded.metrics["quantized_modules"] == LAYERS
        assert loaded.facts["left_alone"] in ("model.embed_tokens", "model.embed_tokens, lm_head")
    named = Nf4Config(overrides={"lm_head": "int8"})
    if tied:
        with raises(ConfigError, "unsupported", "quantization.overrides"):
            load(folder, named)
    else:
        loaded = load(folder, named)
        assert loaded.facts["quantized"].endswith("15 of 15 linear layers: 14 Linear4bit, 1 Linear8bitLt)")
        assert loaded.facts["left_alone"] == "model.embed_tokens"
        spec = configure(folder, named)
        predicted, before = (predict(it, 1, 8, 8) for it in (spec, configure(folder, Nf4Config())))
        assert predicted is not None
        assert before is not None
        numbers = loaded.model.lm_head.weight.numel()
        assert before.weights["head"] == 2 * numbers
        assert predicted.weights["head"] == 0
        assert predicted.weights["linear"] - before.weights["linear"] == numbers
    everything = load(folder, Nf4Config(overrides={"*": "int8"}))
    assert everything.metrics["quantized_modules"] == LAYERS + (not tied)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", ["peft", "pth"])
@pytest.mark.parametrize("base", ["none", *QUANTIZING])
def test_adapters_over_a_mix(saved_family: Saved, tmp_path: Path, kind: str, base: str) -> None:
    folder = saved_family()
    if kind == "peft":
        lora: Any = PeftConfig(path=str(save_peft(tmp_path / "adapter", folder)))
    else:
        lora = PthConfig(path=str(save_pth(tmp_path / "adapter.pth", family_settings("llama"))))
    other = "torchao_int8" if base in ("none", "int8", "nf4", "fp4") else "nf4"
    mixed = CHOICES[base](overrides={"q_proj": other, "layers.0.self_attn.v_proj": "int8"})
    before = load(folder, mixed, dtype=Dtype.float32)
    plain = load(folder, QuantizationConfig(), dtype=Dtype.float32, lora=lora)
    loaded = load(folder, mixed, dtype=Dtype.float32, lora=lora)
    assert loaded.metrics["lora_modules"] == 4
    assert loaded.metrics["quantized_modules"] == before.metrics["quantized_modules"]
    if base not in (
        "nf4",
        "fp4",
        "torchao_float8",
        "torchao_intx",
        "hqq",
    ):  # which change this model as much as its adapter does: the test below is exact
        assert (logits(loaded) - logits(before)).norm() > 4 * (logits(loaded) - logits(plain)).norm()


@pytest.mark.thorough
@pytest.mark.parametrize("name", QUANTIZING)
def test_an_adapter_over_layers_quantized_one_by_one_computes_what_it_does_over_the_librarys_model(
    saved_family: Saved, tmp_path: Path, name: str
) -> None:
    folder = saved_family()
    lora = PeftConfig(path=str(save_peft(tmp_path / "adapter", folder)))
    ways = (CHOICES[name](), QuantizationConfig(overrides={"layers": name}))
    whole, one_by_one = (load(folder, way, lora=lora) for way in ways)
    assert torch.equal(logits(one_by_one), logits(whole))


def test_gpt2s_linear_layers_are_quantized_as_transformers_does(saved_family: Saved, tmp_path: Path) -> None:
    import transformers

    folder = tmp_path / "gpt2"
    torch.manual_seed(0)
    settings = transformers.GPT2Config(
        n_embd=64, n_layer=2, n_head=4, vocab_size=259, bos_token_id=1, eos_token_id=2
    )
    transformers.GPT2LMHeadModel(settings).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(saved_family()).save_pretrained(folder)
    whole, mixed = (load(folder, it) for it in (Int8Config(), QuantizationConfig(overrides={"h": "int8"})))
    assert whole.metrics["quantized_modules"] == mixed.metrics["quantized_modules"] > 0
    assert torch.equal(logits(whole), logits(mixed))
    with raises(ConfigError, "no_effect"):
        load(folder, QuantizationConfig(overrides={"h": "torchao_int8"}))
