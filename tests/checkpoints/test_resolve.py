from __future__ import annotations

from pathlib import Path

import pytest

from runner.checkpoints import resolve
from runner.config.lora import LoraConfig, PeftConfig
from runner.config.model import ModelConfig, StubConfig
from runner.core.errors import ConfigError


def make_folder(path: Path, weights: bytes = b"w" * 100) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(weights)
    return path


def test_hash_follows_content_not_place(tmp_path: Path) -> None:
    one, copy = make_folder(tmp_path / "one"), make_folder(tmp_path / "copy")
    other = make_folder(tmp_path / "other", b"v" * 100)
    cache = tmp_path / "hashes.json"
    hashes = [resolve.evidence(ModelConfig(name=str(f)), LoraConfig(), cache)["model"] for f in (one, copy, other)]
    assert hashes[0] == hashes[1] != hashes[2]
    (one / "notes.md").write_text("not part of the model")
    assert resolve.folder_sha256(one, cache) == hashes[0]
    (one / "config.json").write_text('{"changed": 1}')
    assert resolve.folder_sha256(one, cache) != hashes[0]


def test_unchanged_files_are_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, cache, read = make_folder(tmp_path / "model"), tmp_path / "hashes.json", []
    real = resolve.file_sha256
    monkeypatch.setattr(resolve, "file_sha256", lambda file: read.append(file.name) or real(file))
    first = resolve.folder_sha256(folder, cache)
    assert resolve.folder_sha256(folder, cache) == first
    assert sorted(read) == ["config.json", "model.safetensors"]
    cache.write_text("{torn")
    assert resolve.folder_sha256(folder, cache) == first
    assert len(read) == 4


def test_stub_and_adapter_evidence(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.safetensors").write_bytes(b"a")
    base, cache = make_folder(tmp_path / "model"), tmp_path / "h.json"
    assert resolve.evidence(StubConfig(), LoraConfig(), cache) == {"model": "stub"}
    both = resolve.evidence(ModelConfig(name=str(base)), PeftConfig(path=str(adapter)), cache)
    assert set(both) == {"model", "lora"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nope", "model path does not exist: "),
        ("/nope/at/all", "model path does not exist: /nope/at/all"),
        ("~/surely/not/here", "model path does not exist"),
        ("C:/models/x", "model path does not exist"),
        ("nope", "no folder .*, and no hub id"),
    ],
)
def test_what_is_no_model(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve.locate(ModelConfig(name=name))


def test_a_file_and_an_empty_folder_are_no_model(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file, a model is a folder"):
        resolve.locate(ModelConfig(name=str(tmp_path / "file")))
    with pytest.raises(ConfigError, match="holds no config.json"):
        resolve.locate(ModelConfig(name=str(tmp_path)))
    with pytest.raises(ConfigError, match="adapter_config.json"):
        resolve.locate_adapter(PeftConfig(path=str(tmp_path)), ModelConfig(name="x"))
    with pytest.raises(ConfigError, match="lora.path=embedded fits only model=embedded"):
        resolve.locate_adapter(PeftConfig(path="embedded"), ModelConfig(name=str(tmp_path)))
