"""What models and adapters are called: by what says which one it is, and never by a number format
alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.config.model_names import make_adapter_display_name
from runner_base import short_model_name
from runner_engine.settings.lora import LoraConfig, PeftConfig, PthConfig


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("SmolLM2/bfloat16", "SmolLM2"),
        ("SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct"),
        ("SmolLM2/nf4/model", "SmolLM2"),
        ("SmolLM2/Q4_K_M/model.gguf", "SmolLM2/model.gguf"),
        ("SmolLM2/SmolLM2-Q4_K_M.gguf", "SmolLM2-Q4_K_M.gguf"),
        ("support-bot/checkpoint-500", "support-bot/checkpoint-500"),
        (f"hub/models--Qwen--Qwen3-1.7B/snapshots/{'7' * 40}", "Qwen/Qwen3-1.7B"),
    ],
)
def test_a_folder_is_called_by_the_part_that_says_something(tmp_path: Path, path: str, name: str) -> None:
    place = tmp_path / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.touch() if place.suffix == ".gguf" else place.mkdir(exist_ok=True)
    assert short_model_name(str(place)) == name


def test_an_id_of_the_hub_is_called_as_it_is() -> None:
    assert short_model_name("Qwen/Qwen2.5-0.5B-Instruct") == "Qwen/Qwen2.5-0.5B-Instruct"
    assert short_model_name("embedded") == "embedded"


def test_where_nothing_says_anything_the_last_part_stays() -> None:
    assert short_model_name("/models/bfloat16") == "bfloat16"


def test_an_adapter_is_called_by_its_name_and_not_by_its_format() -> None:
    assert make_adapter_display_name(LoraConfig()) == "none"
    assert make_adapter_display_name(PeftConfig(path="embedded_team")) == "embedded_team"
    assert make_adapter_display_name(PeftConfig(path="/trained/polite/adapter_model")) == "polite"
    assert make_adapter_display_name(PthConfig(path="/trained/polite.pth")) == "polite"
