"""A model with outliers in its activations: rounding its rows to 8 bits is unstable, and it is
decoded in a stream."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from opening import make_spec, open_engine
from streams import complete, requests
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from runner_engine.decode import cache_probe, compat_probe
from runner_engine.local.engine import LocalEngine
from runner_engine.matmul.unrounded_trials import disable_activation_rounding, find_rounding_layers
from runner_engine.quantization.bitsandbytes import Int8Config
from runner_engine.quantization.torchao import Int8DynamicConfig
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig

WIDTH, LAYERS = 128, 8


def save(folder: Path, tokenizer: Path, times: float) -> Path:
    """Save a model one of whose numbers is, after each norm, so many times as large, and counts as
    much as the others."""
    torch.manual_seed(0)
    config: Any = LlamaConfig(
        vocab_size=512, hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, initializer_range=0.08,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config)
    with torch.no_grad():
        for layer in model.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            for norm in (layer.input_layernorm, layer.post_attention_layernorm):
                norm.weight[0] = times
            for one in (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj):
                one.weight[:, 0] /= times
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


def opened(folder: Path, quantization: Any) -> LocalEngine:
    pytest.importorskip("torchao" if isinstance(quantization, Int8DynamicConfig) else "bitsandbytes")
    model = LocalModelConfig(name=str(folder), device="cpu")
    return open_engine(
        make_spec(model=model, quantization=quantization, generation=GenerationConfig(max_new_tokens=4))
    )


@pytest.mark.thorough
def test_a_model_with_outliers_is_decoded_in_a_stream(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save(tmp_path / "model", tiny_llama, 100)
    engine = opened(folder, Int8DynamicConfig())
    assert engine.load().facts["decoding"] == "continuous batching"
    assert len(complete(engine, requests())) == len(requests())
    assert engine.stats.notes == []
    engine.close()
    monkeypatch.setattr(compat_probe, "disable_activation_rounding", lambda _: nullcontext({}))
    rounded = opened(folder, Int8DynamicConfig())
    rounded._loaded = rounded._load()
    with pytest.raises(cache_probe.IncompatibleModel) as caught:
        compat_probe.infer_and_test_kv_cache_spec(rounded.loaded)
    assert caught.value.reason.code == "logits_off"
    rounded.close()


def test_layers_that_lose_most_of_their_rows_are_named(tiny_llama: Path, tmp_path: Path) -> None:
    folder = save(tmp_path / "model", tiny_llama, 5000)
    for _ in range(2):  # the second time, the trial may be a kept one
        engine = opened(folder, Int8DynamicConfig())
        [note] = [one for one in engine.load().notes if one.code == "unstable_rows"]
        layers = note.values["layers"]
        assert layers
        assert all(name.startswith("model.layers.") for name in layers)
        assert not any("down_proj" in name for name in layers), "its rows come from no norm"
        engine.close()


@pytest.mark.thorough
@pytest.mark.parametrize("quantization", [Int8DynamicConfig(), Int8Config()], ids=lambda one: one.name)
def test_rows_as_they_come_give_the_products_of_the_unpacked_weights(
    tiny_llama: Path, tmp_path: Path, quantization: Any
) -> None:
    engine = opened(save(tmp_path / "model", tiny_llama, 100), quantization)
    engine.load()
    layers = find_rounding_layers(engine.loaded.model)
    assert len(layers) == 7 * LAYERS
    name = "model.layers.0.self_attn.q_proj"
    rows = torch.randn(5, WIDTH, dtype=torch.bfloat16)
    plain: Any = LlamaForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.bfloat16)
    expected = plain.get_submodule(name)(rows).float()
    with disable_activation_rounding(engine.loaded.model), torch.no_grad():
        found = layers[name](rows).float()
    assert (found - expected).abs().max() / expected.abs().max() < 0.02
    assert not any("forward" in vars(layer) for layer in layers.values())
    engine.close()
