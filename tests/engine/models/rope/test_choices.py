"""The scalings: the loaded model uses the frequencies that transformers computes for these
parameters."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, settings
from opening import load_base, make_spec, open_engine
from raising import raises
from transformers import AutoConfig, GPT2Config, GPT2LMHeadModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from runner_base.errors import Code, ConfigError
from runner_base.notes import note
from runner_engine.models.base_loading import LoadedModel
from runner_engine.models.rope.rope_application import get_max_positions, set_rope_scaling, write_rope_config
from runner_engine.sessions.base import Request
from runner_engine.sessions.contract import complete_requests
from runner_engine.settings.model import LocalModelConfig
from runner_engine.settings.rope import (
    Rope2dConfig,
    RopeConfig,
    RopeDynamicConfig,
    RopeLinearConfig,
    RopeLlama3Config,
    RopeScalingConfig,
    RopeYarnConfig,
)

SMALL: dict[str, Any] = {
    "num_hidden_layers": 1,
    "max_position_embeddings": 64,
    # a theta of their own choosing
    "rope_parameters": {"rope_type": "default", "rope_theta": 50_000.0},
}
SCALINGS: list[
    tuple[RopeScalingConfig, dict[str, Any], int]
] = [  # choice, the same in transformers' words, room
    (RopeLinearConfig(factor=4), {"rope_type": "linear", "factor": 4.0}, 256),
    (RopeDynamicConfig(factor=2), {"rope_type": "dynamic", "factor": 2.0}, 128),
    (
        RopeYarnConfig(factor=4),
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        256,
    ),
    (
        RopeYarnConfig(
            factor=4, original_max_position_embeddings=16, attention_factor=1.25, beta_fast=16, beta_slow=2
        ),
        {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 16,
            "attention_factor": 1.25,
            "beta_fast": 16.0,
            "beta_slow": 2.0,
        },
        64,
    ),
    (
        RopeLlama3Config(
            factor=8, low_freq_factor=1, high_freq_factor=4, original_max_position_embeddings=32
        ),
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
        64,
    ),
]


@pytest.fixture(scope="module")
def folders(saved_family: Callable[..., Path]) -> dict[str, Path]:
    return {family: saved_family(family, **SMALL) for family in FAMILIES}


def load(folder: Path, rope: RopeConfig) -> LoadedModel:
    return load_base(make_spec(model=LocalModelConfig(name=str(folder), device="cpu"), rope=rope))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("rope", "words", "room"), SCALINGS, ids=["linear", "dynamic", "yarn", "yarn-all", "llama3"]
)
def test_the_model_turns_as_transformers_says(
    folders: dict[str, Path], family: str, rope: RopeScalingConfig, words: dict[str, Any], room: int
) -> None:
    base = load(folders[family], rope)
    config = settings(family, **SMALL | {"rope_parameters": words | {"rope_theta": 50_000.0}})
    inv_freq, attention_scaling = ROPE_INIT_FUNCTIONS[rope.name](config)
    rotary = base.model.model.rotary_emb
    assert rotary.rope_type == rope.name
    assert torch.equal(rotary.inv_freq, inv_freq)
    assert rotary.attention_scaling == attention_scaling
    assert base.facts["rope"] == f"{rope.name}, factor {rope.factor:g}, theta 50000.0"
    assert base.metrics["max_positions"] == room
    assert base.metrics["rope_pairs_patched"] == 0
    assert [one for one in base.notes if one.code == "angles_of_batch"] == (
        [note("angles_of_batch", length=64)] if rope.name == "dynamic" else []
    )


def test_scaling_changes_the_logits_and_a_factor_of_1_does_not(folders: dict[str, Path]) -> None:
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        native, same, scaled = (
            load(folders["llama"], rope).model(ids).logits
            for rope in (RopeConfig(), RopeLinearConfig(factor=1), RopeLinearConfig(factor=8))
        )
    assert torch.equal(native, same)
    assert not torch.equal(native, scaled)


def test_another_scaling_takes_the_place_of_the_models_own() -> None:
    own = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    own |= {"original_max_position_embeddings": 16, "rope_theta": 500_000.0}
    config = settings("llama", **SMALL | {"rope_parameters": dict(own)})
    assert get_max_positions(config) == 64, (
        "with a shorter original length, the scaling is in the model's own number"
    )
    set_rope_scaling(config, RopeYarnConfig(factor=4))
    expected = {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "rope_theta": 500_000.0,
    }
    assert config.rope_parameters == expected, "the model knows how long its pretraining was"
    assert get_max_positions(config) == 64
    set_rope_scaling(config, RopeLinearConfig(factor=2))
    assert config.rope_parameters == {"rope_type": "linear", "factor": 2.0, "rope_theta": 500_000.0}


def test_phi3_keeps_the_original_length_elsewhere() -> None:
    from transformers import Phi3Config

    config = Phi3Config(max_position_embeddings=4096, original_max_position_embeddings=4096, pad_token_id=0)
    set_rope_scaling(config, RopeYarnConfig(factor=2, original_max_position_embeddings=2048))
    config.standardize_rope_params()
    assert config.rope_parameters
    assert config.rope_parameters["original_max_position_embeddings"] == 2048


@pytest.fixture(scope="module")
def gpt2(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with learned positions and damaged weights: an error has to come before they are
    read."""
    folder = tmp_path_factory.mktemp("gpt2")
    GPT2LMHeadModel(
        GPT2Config(vocab_size=300, n_positions=64, n_embd=64, n_layer=1, n_head=2)
    ).save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"no weights")
    for file in tiny_llama.glob("*token*"):
        shutil.copy(file, folder)
    return folder


@pytest.mark.parametrize("rope", [RopeLinearConfig(factor=2), Rope2dConfig()], ids=["linear", "rope_2d"])
def test_a_model_without_rope_is_refused_before_its_weights_are_read(gpt2: Path, rope: RopeConfig) -> None:
    with raises(ConfigError, "unsupported", "rope") as raised:
        load(gpt2, rope)
    assert raised.value.value == rope.name


def test_parameters_by_layer_type_are_refused() -> None:
    from transformers import Gemma3TextConfig

    config = Gemma3TextConfig(num_hidden_layers=2, architectures=["Gemma3ForCausalLM"])
    with raises(ConfigError, "unsupported", "rope"):
        write_rope_config(config, RopeLinearConfig(factor=2))


@pytest.mark.parametrize(
    ("build", "key", "code"),
    [
        (lambda: Rope2dConfig(ratio=1.5), "rope.ratio", "bad_value"),
        (lambda: Rope2dConfig(ratio=float("nan")), "rope.ratio", "bad_value"),
        (lambda: Rope2dConfig(stride=0), "rope.stride", "bad_value"),
        (lambda: RopeLinearConfig(factor=0), "rope.factor", "bad_value"),
        (lambda: RopeDynamicConfig(factor=float("inf")), "rope.factor", "bad_value"),
        (lambda: RopeYarnConfig(factor=0.5), "rope.factor", "bad_value"),
        (
            lambda: RopeYarnConfig(factor=2, original_max_position_embeddings=0),
            "rope.original_max_position_embeddings",
            "bad_value",
        ),
        (lambda: RopeYarnConfig(factor=2, attention_factor=-1), "rope.attention_factor", "bad_value"),
        (lambda: RopeYarnConfig(factor=2, beta_fast=1, beta_slow=2), "rope.beta_fast", "conflict"),
        (lambda: RopeLlama3Config(factor=2, low_freq_factor=0), "rope.low_freq_factor", "bad_value"),
        (
            lambda: RopeLlama3Config(factor=2, low_freq_factor=4, high_freq_factor=4),
            "rope.high_freq_factor",
            "conflict",
        ),
    ],
)
def test_checks_name_the_rope_key(build: Any, key: str, code: Code) -> None:
    with raises(ConfigError, code, key):
        build()


@pytest.mark.slow
def test_a_wrong_factor_on_the_command_line(runner: Callable[..., Any]) -> None:
    done = runner("rope=linear", "rope.factor=0", "model=stub")
    assert done.code == 2
    assert "error: rope.factor=0.0: must be 1 or more" in done.err


@pytest.mark.thorough
@pytest.mark.slow
def test_the_table_shows_what_turns_with_what(runner: Callable[..., Any]) -> None:
    done = runner("rope=rope_2d", "task.limit=20", "tracking=none", COLUMNS="160")
    assert done.code == 0, done.err
    assert (
        "rope_2d, pairs 17–32 of 32: branch 17, 19, … time 18, 20, …, stride 128, theta 10000.0" in done.out
    )
    again = runner("rope=rope_2d", "task.limit=20", "tracking=none", "print=json").json()
    assert again["metrics"]["rope_pairs_patched"] == 16


def test_settings_read_for_scaling_are_the_models_own(folders: dict[str, Path]) -> None:
    settings = AutoConfig.from_pretrained(folders["qwen3"])
    write_rope_config(settings, Rope2dConfig())
    assert settings.rope_parameters == {"rope_type": "default", "rope_theta": 50_000.0}


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("words", "room"),
    [
        ({"rope_type": "linear", "factor": 4.0}, 256),
        ({"rope_type": "dynamic", "factor": 2.0}, 128),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, 256),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}, 64),
        ({"rope_type": "default"}, 64),
    ],
    ids=lambda value: value.get("rope_type") if isinstance(value, dict) else str(value),
)
def test_a_scaling_in_the_checkpoint_is_room(
    saved_family: Callable[..., Path], words: dict[str, Any], room: int
) -> None:
    folder = saved_family("llama", **SMALL | {"rope_parameters": words | {"rope_theta": 50_000.0}})
    engine = open_engine(make_spec(model=LocalModelConfig(name=str(folder), device="cpu")))
    assert engine.load().metrics["max_positions"] == room
    (done,) = complete_requests(engine, [Request(0, tuple([5] * (room - 2)), ignore_eos=True)])
    assert done.error is None, "generate answers it, too"
    assert len(done.answer.token_ids) == 2
    engine.close()
