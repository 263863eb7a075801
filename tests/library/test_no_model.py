"""The error for a name that is no model says what may be meant, and no prompt is sent anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from raising import raises

from runner.library.load import build_load_config
from runner_base.errors import ConfigError
from runner_engine.checkpoints import locating
from runner_engine.settings.lora import PeftConfig
from runner_engine.settings.model import LocalModelConfig


@pytest.mark.parametrize(
    ("name", "base_url", "said"),
    [
        ("gpt-4o", "", " a server, use model=api model.name=gpt-4o model.base_url=http://HOST:PORT/v1. "),
        ("gpt-4o", "http://x/v1", " the server of BASE_URL, use model=api model.name=gpt-4o. "),
        ("embeded", "http://x/v1", "Did you mean model=embedded?"),
        ("smollm2_135", "", "Did you mean model=smollm2_135m?"),
    ],
)  # fmt: skip
def test_a_name_that_is_no_place(
    name: str, base_url: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BASE_URL", base_url)
    with raises(ConfigError, "not_found", "model.name") as refused:
        locating.locate_model(LocalModelConfig(name=name))
    assert said in str(refused.value)
    with raises(ConfigError, "not_found", "lora.path") as refused:
        locating.locate_adapter(PeftConfig(path=name), LocalModelConfig(name="embedded"))
    assert str(refused.value).endswith(" a folder, a hub id, or lora=embedded")


def test_a_folder_beside_a_choices_name_is_a_folder(
    tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "embeded").symlink_to(tiny_llama)
    assert (
        build_load_config(
            "embeded", dict.fromkeys(("quantization", "lora", "rope", "generation")), {}
        ).model.name
        == "embeded"
    )
    assert locating.locate_model(LocalModelConfig(name="embeded")) == tmp_path / "embeded"


@pytest.mark.parametrize("manifest", ["[]", "{", '{"format": "other"}', "{}"])
def test_another_manifest_is_not_taken_for_one_of_a_split(tmp_path: Path, manifest: str) -> None:
    (tmp_path / "manifest.json").write_text(manifest)
    with raises(ConfigError, "not_found", "model.name"):
        locating.locate_model(LocalModelConfig(name=str(tmp_path)))
