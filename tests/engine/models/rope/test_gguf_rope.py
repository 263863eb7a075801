"""A .gguf file's scaled rotary embedding is that of the folder it was made of: keys of the header,
and divisors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf_families import LLAMA3, LONGROPE, ROPE, YARN, config_of, tiny, write_gguf
from gguf_rope import llama3_divisors

from runner_base import DataError
from runner_engine import (
    CHOICES,
    GenerationConfig,
    LocalModelConfig,
    ModelSpec,
    Request,
    complete_requests,
    open_engine,
)
from runner_engine.checkpoints.architectures import rope
from runner_engine.models.load_checks import load_transformers_config
from runner_engine.models.loading.gguf import load_gguf_model

# longer than the pretraining of the LongRoPE, 256
IDS = torch.arange(3, 603).view(2, 300) * 5 % 262
CLOSE = 1e-4  # of logits whose sums may have another order
SCALED = ("llama_llama3", "llama_linear", "llama_yarn", "phi3_longrope")


def logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model.eval()(ids).logits.clone()
    return found


def read(path: Path) -> Any:
    model, report = load_gguf_model(path, load_transformers_config(path), torch.float32, None)
    assert report == {"missing_keys": [], "unexpected_keys": []}
    return model


@pytest.mark.parametrize("name", SCALED)
def test_a_scaling_of_the_file_is_the_models(name: str, tmp_path: Path) -> None:
    model = tiny(name)
    loaded = read(write_gguf(tmp_path / "model.gguf", name, model))
    assert (logits(loaded) - logits(model)).abs().max() < CLOSE
    short = IDS[:, :60]
    assert (logits(loaded, short) - logits(model, short)).abs().max() < CLOSE
    assert loaded.config.rope_parameters["rope_type"] == model.config.rope_parameters["rope_type"]


def test_the_multiplier_of_a_latents_yarn_is_the_models(tmp_path: Path) -> None:
    model = tiny("deepseek_v3", rope_parameters={**YARN, "mscale": 0.707, "mscale_all_dim": 0.707})
    loaded = read(write_gguf(tmp_path / "model.gguf", "deepseek_v3", model))
    assert (logits(loaded) - logits(model)).abs().max() < CLOSE
    without: dict[str, Any] = {"rope.scaling.yarn_log_multiplier": 0.0}
    other = read(write_gguf(tmp_path / "other.gguf", "deepseek_v3", model, **without))
    assert (logits(other) - logits(model)).abs().max() > 10 * CLOSE


def test_a_job_answers_as_generate(tmp_path: Path) -> None:
    model = tiny("llama_llama3")
    path = write_gguf(tmp_path / "model.gguf", "llama_llama3", model)
    wanted = GenerationConfig(max_new_tokens=24)
    spec = ModelSpec(LocalModelConfig(name=str(path), device="cpu"), CHOICES["gguf"](), generation=wanted)
    prompts = [tuple(IDS[0, :length].tolist()) for length in (20, 300)]
    requests = [Request(number, prompt) for number, prompt in enumerate(prompts)]
    answers = {done.id: done.answer.token_ids for done in complete_requests(open_engine(spec), requests)}
    for number, prompt in enumerate(prompts):
        ids = torch.tensor([prompt])
        read_all = {"attention_mask": torch.ones_like(ids), "pad_token_id": 0}
        expected = model.generate(ids, max_new_tokens=24, do_sample=False, **read_all)
        assert list(answers[number]) == expected[0, len(prompt) :].tolist()


@pytest.mark.parametrize("name", SCALED)
def test_without_it_the_file_is_another_model(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(name)
    path = write_gguf(tmp_path / "model.gguf", name, model)
    for constant in ("FACTORS", "SHORT", "LONG"):
        monkeypatch.setattr(rope, constant, "nothing.weight")
    monkeypatch.setattr(rope, "BY_TENSORS", ("none", "longrope", "linear", "yarn"))
    assert (logits(read(path)) - logits(model)).abs().max() > 100 * CLOSE


@pytest.mark.parametrize("factor", [8.0, 32.0])
@pytest.mark.parametrize("trained", [128, 300, 8192])
def test_a_llama3_scaling_is_found_in_its_divisors(factor: float, trained: int) -> None:
    own = {**LLAMA3, "rope_theta": 500000.0, "factor": factor, "original_max_position_embeddings": trained}
    divisors = np.array(llama3_divisors(config_of("llama_llama3", head_dim=64), own), dtype=np.float32)
    found = rope._fit_llama3_scaling(divisors.astype(np.float64), 500000.0)
    assert found == {key: value for key, value in own.items() if key != "rope_theta"}


def test_other_divisors_are_read_as_they_are(tmp_path: Path) -> None:
    values = [1.0, 1.2, 1.9, 3.0, 3.5, 3.8, 5.0, 6.5]
    both = {**LONGROPE, "short_factor": values, "long_factor": values, "attention_factor": 1.0}
    model = tiny("phi3_longrope", rope_parameters=both)
    path = write_gguf(
        tmp_path / "model.gguf", "phi3_longrope", model, rope_tensors={"rope_freqs.weight": values}
    )
    assert (logits(read(path)) - logits(model)).abs().max() < CLOSE


def test_the_scalings_of_keys(tmp_path: Path) -> None:
    """attn_factor multiplies what YaRN has by itself; yarn_attn_factor is all of it."""
    for keys, attention in (
        ({}, None),
        ({"yarn_attn_factor": 1.25}, 1.25),
        ({"attn_factor": 1.5}, 1.5 * (1 + 0.1 * np.log(4))),
        ({"attn_factor": 1.5, "yarn_attn_factor": 1.25}, 1.5 * 1.25),
    ):
        own: dict[str, Any] = {f"rope.scaling.{key}": value for key, value in keys.items()}
        path = write_gguf(tmp_path / "model.gguf", "llama_yarn", tiny("llama_yarn"), **own)
        found = load_transformers_config(path).rope_parameters.get("attention_factor")
        assert found == (None if attention is None else pytest.approx(attention))
    own = {"rope.scaling.yarn_beta_fast": 16.0, "rope.scaling.yarn_beta_slow": 2.0}
    path = write_gguf(tmp_path / "model.gguf", "llama_yarn", tiny("llama_yarn"), **own)
    found = load_transformers_config(path).rope_parameters
    assert found == {**YARN, "beta_fast": 16.0, "beta_slow": 2.0}
    plain = tiny("llama_linear", rope_parameters=ROPE)
    older: dict[str, Any] = {"rope.scale_linear": 4.0}
    path = write_gguf(tmp_path / "model.gguf", "llama_linear", plain, **older)
    assert load_transformers_config(path).rope_parameters == {
        "rope_type": "linear",
        "factor": 4.0,
        "rope_theta": 10000.0,
    }


@pytest.mark.parametrize(
    ("tensors", "keys", "message"),
    [
        ({"rope_freqs.weight": [1.0] * 7}, {}, r"rope_freqs.weight has .* \[7\] in F32. Expected \[8\] in F32"),
        ({"rope_freqs.weight": [1.0, -2.0] * 4}, {}, "rope_freqs.weight: numbers above 0 expected"),
        ({"rope_freqs.weight": [1.0, float("nan")] * 4}, {}, "rope_freqs.weight: numbers above 0 expected"),
        ({"rope_factors_long.weight": [1.0] * 8}, {}, "rope_factors_short.weight is missing. .* both rope_factors_short.weight and rope_factors_long.weight"),
        ({"rope_freqs.weight": [2.0] * 8}, {"rope.scaling.type": "yarn"}, "rope_freqs.weight is unsupported .* rope.scaling.type=yarn"),
        ({}, {"rope.scaling.type": "magic"}, "llama.rope.scaling.type='magic' cannot be read"),
        ({}, {"rope.scaling.factor": -1.0}, "llama.rope.scaling.factor is -1.0. Expected a number above 0"),
        ({}, {"rope.freq_base": "base"}, "llama.rope.freq_base is 'base'. Expected a number above 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said(
    tensors: dict[str, list[float]], keys: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model = tiny("llama_linear", rope_parameters=ROPE)
    path = write_gguf(tmp_path / "model.gguf", "llama_linear", model, rope_tensors=tensors, **keys)
    with pytest.raises(DataError, match=message):
        load_transformers_config(path)
