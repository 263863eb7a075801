"""Checkpoints of integers in groups that torchao has stored: recognised, held in as many bits, and
refused if damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from intx_configs import INTX, class_of, intx_config
from loading import NONE, check_predicted_bytes, configure, load, logits, off
from raising import raises
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, TorchAoConfig

from runner_base.errors import ConfigError
from runner_engine.quantization.torchao import TorchaoIntxConfig

pytestmark = pytest.mark.slow  # as a group: `make test-fast` leaves them out

Saved = Callable[..., Path]


@pytest.fixture(scope="module")
def stored(saved_family: Saved, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that saves a model as torchao does, quantized, perhaps with some tensors
    changed."""

    def folder(config: Any, change: Callable[[dict[str, torch.Tensor]], None] | None = None) -> Path:
        made = tmp_path_factory.mktemp("torchao")
        model = AutoModelForCausalLM.from_pretrained(
            saved_family(), dtype=torch.bfloat16, quantization_config=TorchAoConfig(config)
        )
        model.save_pretrained(made)
        AutoTokenizer.from_pretrained(saved_family()).save_pretrained(made)
        if change is not None:
            file = made / "model.safetensors"
            with safe_open(file, "pt") as opened:
                notes = opened.metadata()
            tensors = load_file(file)
            change(tensors)
            save_file(tensors, file, notes)
        return made

    return folder


@pytest.mark.sampled(2)
@pytest.mark.parametrize("choice", INTX)
def test_torchaos_own_checkpoint_is_recognised_and_held_in_as_many_bits(
    saved_family: Saved, stored: Callable[..., Path], choice: TorchaoIntxConfig
) -> None:
    folder = stored(intx_config(choice))
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    made = load(saved_family(), choice)
    for wanted in (NONE, choice):
        loaded = load(folder, wanted)
        assert f"14 of 15 linear layers: 14 {class_of(choice)})" in loaded.facts["quantized"]
        assert loaded.facts["checkpoint"].startswith("quantized already: torchao_intx by torchao (bits=")
        assert torch.equal(logits(loaded.model), logits(made.model))
        assert off(logits(loaded.model), logits(theirs)) < 1e-2
        assert loaded.bytes_by_dtype == made.bytes_by_dtype
        check_predicted_bytes(loaded, configure(folder, wanted))


def test_other_integers_of_torchao_are_left_to_it(stored: Callable[..., Path]) -> None:
    from torchao.quantization import IntxWeightOnlyConfig, PerAxis

    folder = stored(IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerAxis(0)))  # type: ignore[attr-defined]
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    loaded = load(folder)
    assert ": 14 IntxUnpackedToInt8Tensor)" in loaded.facts["quantized"]
    assert torch.equal(logits(loaded.model), logits(theirs))


def damage(end: str, value: float) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        name = next(name for name in sorted(tensors) if name.endswith(end))
        tensors[name].view(-1)[5] = value

    return change


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("end", "value", "words"),
    [
        ("down_proj._weight_qdata", 8, "a code is not an integer of 4 bits"),
        ("down_proj._weight_qdata", -128, "a code is not an integer of 4 bits"),
        ("down_proj._weight_scale", float("nan"), "a scale is not finite"),
        ("down_proj._weight_scale", float("inf"), "a scale is not finite"),
        ("down_proj._weight_zero_point", 100, "a zero point is not an integer of 4 bits"),
        ("down_proj._weight_zero_point", 1, "symmetric weights must have zero points of 0"),
    ],
)
def test_damaged_numbers_are_named(stored: Callable[..., Path], end: str, value: float, words: str) -> None:
    folder = stored(intx_config(TorchaoIntxConfig()), damage(end, value))
    with pytest.raises(ConfigError, match=rf"model.layers.0.mlp.down_proj.weight: {words}"):
        load(folder)


def test_a_config_that_says_other_bits_or_groups_than_the_tensors_is_refused(
    stored: Callable[..., Path],
) -> None:
    folder = stored(intx_config(TorchaoIntxConfig()))
    file = folder / "config.json"
    settings = json.loads(file.read_text())
    keys = settings["quantization_config"]["quant_type"]["default"]["_data"]
    keys["granularity"]["_data"]["group_size"] = 64
    file.write_text(json.dumps(settings))
    with raises(ConfigError, "damaged") as raised:
        load(folder)
    assert "config.json declares int4 in groups of 64" in raised.value.reason
