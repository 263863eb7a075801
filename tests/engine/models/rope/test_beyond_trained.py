"""rope.beyond_trained: texts longer than the model was trained on are read as transformers reads
them, and said so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from opening import load_base, make_spec, open_engine
from raising import raises
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from runner_base.errors import ConfigError
from runner_engine.checkpoints.positions import compute_max_positions, compute_trained_positions
from runner_engine.sessions.base import Request
from runner_engine.sessions.contract import complete_requests
from runner_engine.settings.model import LocalModelConfig
from runner_engine.settings.rope import (
    Rope2dConfig,
    RopeConfig,
    RopeDynamicConfig,
    RopeLinearConfig,
    RopeYarnConfig,
)
from runner_engine.spec import ModelSpec

TRAINED = 64
PROMPTS = [
    tuple(number * 7 % 250 + 3 for number in range(start, start + length))
    for start, length in ((0, 200), (5, 90))
]
ROPES: list[RopeConfig] = [
    RopeConfig(beyond_trained=True),
    RopeLinearConfig(factor=2, beyond_trained=True),
    RopeYarnConfig(factor=2, beyond_trained=True),
    RopeDynamicConfig(factor=2, beyond_trained=True),
]


@pytest.fixture
def folder(saved_family: Callable[..., Path]) -> Path:
    return saved_family("llama", num_hidden_layers=2, max_position_embeddings=TRAINED)


def spec_of(folder: Path, rope: RopeConfig) -> ModelSpec:
    return make_spec(model=LocalModelConfig(name=str(folder), device="cpu"), rope=rope)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("rope", ROPES, ids=lambda rope: rope.name)
def test_tokens_are_those_of_generate(folder: Path, rope: RopeConfig) -> None:
    engine = open_engine(spec_of(folder, rope))
    report = engine.load()
    requests = [
        Request(number, prompt, max_new_tokens=12, ignore_eos=True) for number, prompt in enumerate(PROMPTS)
    ]
    found = {
        done.id: (done.error, list(done.answer.token_ids)) for done in complete_requests(engine, requests)
    }
    engine.close()
    for number, prompt in enumerate(PROMPTS):
        ids = torch.tensor([prompt])
        model = load_base(spec_of(folder, rope)).model  # which remembers no longer row
        keys = {"attention_mask": torch.ones_like(ids), "pad_token_id": 0, "eos_token_id": None}
        expected = model.generate(ids, max_new_tokens=12, do_sample=False, **keys)
        assert found[number] == (None, expected[0, len(prompt) :].tolist())
    assert report.metrics["made_for_positions"] == (TRAINED if type(rope) is RopeConfig else 2 * TRAINED)
    made = "trained 64" if type(rope) is RopeConfig else "scaled 128"
    assert report.facts["rope"].endswith(f", beyond its {made}")


def test_native_is_the_model_without_any_scaling(folder: Path) -> None:
    plain: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor([PROMPTS[0]])
    loaded = load_base(spec_of(folder, RopeConfig(beyond_trained=True)))
    scaled = load_base(spec_of(folder, RopeLinearConfig(factor=4)))
    with torch.inference_mode():
        expected = plain(ids).logits
        assert torch.equal(loaded.model(ids).logits, expected)
        assert not torch.allclose(scaled.model(ids).logits, expected, atol=1e-2)


def test_without_the_key_it_is_refused_by_a_message_that_names_it(folder: Path) -> None:
    engine = open_engine(spec_of(folder, RopeConfig()))
    assert "made_for_positions" not in engine.load().metrics
    (done,) = complete_requests(engine, [Request(0, PROMPTS[0])])
    assert (
        done.error
        == "the prompt has 200 tokens, but the model has room for 64: rope.beyond_trained=true reads on"
    )
    (scored,) = complete_requests(engine, [Request(0, PROMPTS[0], continuation=(5, 6))])
    assert str(scored.error).endswith("the model has room for 64: rope.beyond_trained=true reads on")
    engine.close()


def test_a_table_of_positions_has_none_beyond_it(tiny_llama: Path, tmp_path: Path) -> None:
    settings = GPT2Config(n_embd=32, n_layer=1, n_head=2, n_positions=64, vocab_size=300, bos_token_id=None)
    GPT2LMHeadModel(settings).save_pretrained(tmp_path / "gpt2")
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(tmp_path / "gpt2")
    with raises(ConfigError, "unsupported", "rope.beyond_trained"):
        load_base(spec_of(tmp_path / "gpt2", RopeConfig(beyond_trained=True)))


def test_positions_before_the_load() -> None:
    settings = {"max_position_embeddings": 1024}
    for rope, limit in (
        (RopeConfig(beyond_trained=True), 1024),
        (RopeLinearConfig(factor=2, beyond_trained=True), 2048),
    ):
        assert compute_max_positions(settings, rope) == float("inf")
        assert compute_trained_positions(settings, rope) == limit
    assert (
        compute_max_positions(settings, Rope2dConfig())
        == compute_trained_positions(settings, Rope2dConfig())
        == 1024
    )
