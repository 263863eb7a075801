"""What the report and the plan say of a rotary embedding: by kinds of layers, shares of heads, and
against its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import settings
from gguf_families import tiny, write_gguf
from opening import load_base, make_spec
from raising import raises
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from runner_base.errors import ConfigError
from runner_base.notes import note
from runner_engine import CHOICES
from runner_engine.checkpoints.positions import build_replaced_rope_scaling_notes, check_rope_scaling_factor
from runner_engine.models.rope.rope_application import set_rope_scaling
from runner_engine.models.rope.rope_description import describe_rope_config
from runner_engine.settings.model import LocalModelConfig
from runner_engine.settings.rope import (
    RopeConfig,
    RopeDynamicConfig,
    RopeLinearConfig,
    RopeLlama3Config,
    RopeYarnConfig,
)

ROPE = {"rope_theta": 50_000.0}
FACTORS = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, **ROPE}


class Text:
    """A config of transformers, as far as it is named."""

    def __init__(self, **parameters: Any) -> None:
        self.rope_parameters = parameters


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"rope_type": "default", **ROPE}, "default, theta 50000.0"),
        ({"rope_type": "default", **ROPE, "partial_rotary_factor": 0.25}, "default, theta 50000.0, 25% of each head"),
        ({"rope_type": "linear", "factor": 4.0, **ROPE}, "linear, factor 4, theta 50000.0"),
        (
            {"rope_type": "longrope", **FACTORS, **ROPE, "original_max_position_embeddings": 4096},
            "longrope, other factors beyond 4,096, theta 50000.0",
        ),
        (
            {"rope_type": "longrope", **FACTORS, "long_factor": [1.0] * 8, **ROPE, "original_max_position_embeddings": 4096},
            "longrope, theta 50000.0",
        ),
        (
            {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
             "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}},
            "full_attention: linear, factor 8, theta 1000000.0 · sliding_attention: default, theta 10000.0",
        ),
        ({}, "none"),
    ],
)  # fmt: skip
def test_a_rotary_embedding_is_named(parameters: dict[str, Any], words: str) -> None:
    assert describe_rope_config(Text(**parameters)) == words


def test_a_loaded_model_with_bases_by_layer_is_named_so(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", "gemma3_text", tiny("gemma3_text"))
    spec = make_spec(model=LocalModelConfig(name=str(path), device="cpu"), quantization=CHOICES["gguf"]())
    words = load_base(spec).facts["rope"]
    assert words == "full_attention: default, theta 1000000.0 · sliding_attention: default, theta 10000.0"


OWN = {"max_position_embeddings": 131072, "rope_parameters": {
    "rope_type": "llama3", "factor": 16.0, "original_max_position_embeddings": 8192, **ROPE,
}}  # fmt: skip


def test_a_factor_beyond_the_models_own_scaling_is_one_message() -> None:
    for rope in (RopeLlama3Config(factor=32), RopeYarnConfig(factor=32)):
        with raises(ConfigError, "too_large", "rope.factor") as raised:
            check_rope_scaling_factor(OWN, rope)
        assert "131,072 positions, from 8,192" in raised.value.reason
        assert "rope.factor=16 or less" in raised.value.reason
    for fine in (RopeYarnConfig(factor=16), RopeYarnConfig(factor=32, beyond_trained=True), RopeConfig()):
        check_rope_scaling_factor(OWN, fine)
    check_rope_scaling_factor({"max_position_embeddings": 8192}, RopeYarnConfig(factor=32))


def test_what_takes_the_place_of_the_models_own_is_said() -> None:
    values = {"own": "llama3", "own_factor": 16, "trained": 8192}
    assert build_replaced_rope_scaling_notes(OWN, RopeYarnConfig(factor=8)) == [
        note("replaces_own_scaling", rope="yarn", factor=8, is_counted_anew=False, **values)
    ]
    for rope in (RopeLinearConfig(factor=2), RopeDynamicConfig(factor=2)):
        assert build_replaced_rope_scaling_notes(OWN, rope) == [
            note("replaces_own_scaling", rope=rope.name, factor=2, is_counted_anew=True, **values)
        ]
    assert build_replaced_rope_scaling_notes(OWN, RopeConfig()) == []
    assert (
        build_replaced_rope_scaling_notes({"max_position_embeddings": 8192}, RopeYarnConfig(factor=8)) == []
    )


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    "own",
    [
        {},
        {"attention_factor": 1.25},
        {"mscale": 1.0, "mscale_all_dim": 0.5},
        {"mscale": 0.707, "mscale_all_dim": 0.707},
        {"mscale": 1.0},
        {"truncate": False},
        {"truncate": False, "beta_fast": 8.0, "beta_slow": 2.0, "mscale": 2.0, "mscale_all_dim": 1.0},
    ],
    ids=str,
)
def test_yarn_is_that_of_transformers(own: dict[str, Any], saved_family: Callable[..., Path]) -> None:
    parameters = YARN | own
    folder = saved_family("llama", max_position_embeddings=64, rope_parameters=dict(parameters))
    loaded = load_base(make_spec(model=LocalModelConfig(name=str(folder), device="cpu")))
    expected, scaling = ROPE_INIT_FUNCTIONS["yarn"](
        settings("llama", max_position_embeddings=64, rope_parameters=parameters)
    )
    rotary = loaded.model.model.rotary_emb
    assert torch.equal(rotary.inv_freq, expected)
    assert rotary.attention_scaling == scaling
    cos, _ = rotary(torch.zeros(1, 1, 16), torch.zeros(1, 1, dtype=torch.long))
    assert cos.max().item() == pytest.approx(scaling)


def test_another_factor_keeps_what_the_models_own_yarn_says_besides() -> None:
    own = {"truncate": False, "mscale": 1.0, "mscale_all_dim": 0.5}
    config = settings("llama", max_position_embeddings=64, rope_parameters=YARN | own)
    set_rope_scaling(config, RopeYarnConfig(factor=2))
    assert config.rope_parameters == YARN | own | {"factor": 2.0}
    set_rope_scaling(config, RopeLinearConfig(factor=2))
    assert config.rope_parameters == {"rope_type": "linear", "factor": 2.0, **ROPE}
