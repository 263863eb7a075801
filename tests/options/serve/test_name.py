"""The model's name for clients: it tells servers with other adapters and quantizations apart."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from serving import FLOAT32, serving

from runner.options.serve.keys import ServeConfig
from runner.options.serve.model_names import list_accepted_model_names, make_served_model_name
from runner_engine.embedded import MODEL_DIR
from runner_engine.quantization import CHOICES
from runner_engine.quantization.base import QuantizationConfig
from runner_engine.settings.lora import LoraConfig, PeftConfig, PthConfig
from runner_engine.settings.model import LocalModelConfig
from runner_engine.settings.rope import Rope2dConfig, RopeConfig

PLAIN = (QuantizationConfig(), LoraConfig(), RopeConfig())
NF4, EMBEDDED = CHOICES["nf4"](), PeftConfig(path="embedded")


@pytest.mark.parametrize(
    ("groups", "name"),
    [
        (PLAIN, "embedded"),
        ((NF4, *PLAIN[1:]), "embedded+nf4"),
        ((NF4, EMBEDDED, RopeConfig()), "embedded+nf4+lora-embedded"),
        ((PLAIN[0], PthConfig(path="/adapters/mine.pth"), Rope2dConfig()), "embedded+lora-mine+rope_2d"),
    ],
)
def test_a_name_lists_what_was_added_to_the_model(
    make_config: Any, groups: tuple[Any, ...], name: str
) -> None:
    quantization, lora, rope = groups
    config = make_config(
        model=LocalModelConfig(name="embedded"), quantization=quantization, lora=lora, rope=rope
    )
    assert make_served_model_name(config, ServeConfig()) == name
    assert {*list_accepted_model_names(config, ServeConfig())} == {name, "embedded"}
    assert list_accepted_model_names(config, ServeConfig(model_name="mine")) == ("mine",)


def test_a_folder_is_named_by_its_last_part(make_config: Any, tmp_path: Path) -> None:
    config = make_config(model=LocalModelConfig(name=str(tmp_path)), quantization=NF4)
    assert make_served_model_name(config, ServeConfig()) == f"{tmp_path.name}+nf4"


@pytest.mark.slow
def test_clients_see_which_model_it_is_where_its_folder_says_only_the_number_format(tmp_path: Path) -> None:
    folder = tmp_path / "Some-Model" / "bfloat16"
    shutil.copytree(MODEL_DIR, folder)
    with serving(tmp_path, *FLOAT32, "model=auto", f"model.name={folder}", "tracking=none") as server:
        assert [model["id"] for model in server.ask("/v1/models")[1]["data"]] == ["Some-Model"]
        assert "<title>Some-Model · runner</title>" in server.ask("/")[1]
        for name in ("Some-Model", "bfloat16"):
            assert server.ask("/v1/completions", {"prompt": "7", "max_tokens": 1, "model": name})[0] == 200


@pytest.mark.thorough
@pytest.mark.slow
def test_clients_see_the_whole_name_and_may_use_the_plain_one(tmp_path: Path) -> None:
    whole = "embedded+lora-embedded"
    with serving(tmp_path, *FLOAT32, "lora=embedded", "tracking=none") as server:
        assert f"serving {whole} at " in server.err
        assert [one["id"] for one in server.ask("/v1/models")[1]["data"]] == [whole]
        assert f'<h1 id="model">{whole}</h1>' in server.ask("/")[1]
        for name in (whole, "embedded", None):
            status, answer = server.ask("/v1/completions", {"prompt": "7", "max_tokens": 1, "model": name})
            assert (status, answer["model"]) == (200, whole)
        for name in (whole, "embedded"):
            assert server.ask(f"/v1/models/{name}")[1]["id"] == whole
        status, answer = server.ask("/v1/completions", {"prompt": "7", "model": "embedded+nf4"})
        assert (status, answer["error"]["code"]) == (404, "model_not_found")
