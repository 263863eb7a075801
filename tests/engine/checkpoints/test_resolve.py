from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hub_standin import Hub, environment
from opening import make_spec
from raising import raises

from runner_base import machine
from runner_base.dtypes import Dtype
from runner_base.errors import ConfigError
from runner_engine.checkpoints import file_io, locating, model_files, resolved_model
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.lora import PeftConfig
from runner_engine.settings.model import LocalModelConfig


def make_folder(path: Path, weights: bytes = b"w" * 100) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(weights)
    return path


def test_hash_follows_content_not_place(tmp_path: Path) -> None:
    one, copy = make_folder(tmp_path / "one"), make_folder(tmp_path / "copy")
    other = make_folder(tmp_path / "other", b"v" * 100)
    cache = tmp_path / "hashes.json"
    hashes = [model_files.hash_model_files(f, cache) for f in (one, copy, other)]
    assert hashes[0] == hashes[1] != hashes[2]
    (one / "notes.md").write_text("not part of the model")
    assert model_files.hash_model_files(one, cache) == hashes[0]
    (one / "config.json").write_text('{"changed": 1}')
    assert model_files.hash_model_files(one, cache) != hashes[0]


def test_unchanged_files_are_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, cache = make_folder(tmp_path / "model"), tmp_path / "hashes.json"
    read: list[str] = []

    def counted(file: Path) -> str:
        read.append(file.name)
        return file_io.hash_file_sha256(file)

    monkeypatch.setattr(model_files, "hash_file_sha256", counted)
    first = model_files.hash_model_files(folder, cache)
    assert model_files.hash_model_files(folder, cache) == first
    assert sorted(read) == ["config.json", "model.safetensors"]
    cache.write_text("{torn")
    assert model_files.hash_model_files(folder, cache) == first
    assert len(read) == 4


def test_adapter_evidence(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.safetensors").write_bytes(b"a")
    base, cache = make_folder(tmp_path / "model"), tmp_path / "h.json"
    spec = make_spec(model=LocalModelConfig(name=str(base)), lora=PeftConfig(path=str(adapter)))
    assert set(resolved_model.resolve_model(spec).hash_files(cache)) == {"model", "lora", "dtype"}


@pytest.mark.parametrize("name", ["./nope", "/nope/at/all", "~/surely/not/here", "C:/models/x", "nope"])
def test_what_is_no_model(name: str) -> None:
    with raises(ConfigError, "not_found", "model.name") as raised:
        locating.locate_model(LocalModelConfig(name=name))
    assert raised.value.value == name


def test_a_file_and_an_empty_folder_are_no_model(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with raises(ConfigError, "bad_value", "model.name"):
        locating.locate_model(LocalModelConfig(name=str(tmp_path / "file")))
    with raises(ConfigError, "not_found", "model.name") as raised:
        locating.locate_model(LocalModelConfig(name=str(tmp_path)))
    assert raised.value.value == str(tmp_path)
    with raises(ConfigError, "not_found", "lora.path") as raised:
        locating.locate_adapter(PeftConfig(path=str(tmp_path)), LocalModelConfig(name="x"))
    assert raised.value.value == str(tmp_path)
    with raises(ConfigError, "not_found", "lora.path") as raised:
        locating.locate_adapter(PeftConfig(path="nope"), LocalModelConfig(name="x"))
    assert raised.value.value == "nope"
    with raises(ConfigError, "conflict"):
        locating.locate_adapter(PeftConfig(path="embedded"), LocalModelConfig(name=str(tmp_path)))


def test_another_draft_at_the_same_path_is_another_job(tmp_path: Path) -> None:
    base, draft = make_folder(tmp_path / "model"), make_folder(tmp_path / "draft")
    cache = tmp_path / "hashes.json"

    def hashes(speculate: Any) -> dict[str, str]:
        model = LocalModelConfig(name=str(base))
        spec = make_spec(model=model, generation=GenerationConfig(speculate=speculate))
        return resolved_model.resolve_model(spec).hash_files(cache)

    plain = hashes("off")
    assert hashes({"kind": "draft", "layers": 1}) == plain, "its files are those of the model"
    named = {"kind": "draft", "model": str(draft)}
    before = hashes(named)
    assert before == plain | {"draft": before["draft"]}
    (draft / "config.json").write_text('{"changed": true}')
    assert hashes(named)["draft"] != before["draft"]


def test_a_float16_checkpoint_is_another_job_on_a_cpu_than_on_a_gpu(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "half"
    shutil.copytree(tiny_llama, folder)
    settings = json.loads((folder / "config.json").read_text())

    def fingerprint(stored: str, gpus: list[str], torch: str = "2.11.0", **keys: Any) -> dict[str, str]:
        (folder / "config.json").write_text(json.dumps(settings | {"dtype": stored}))
        monkeypatch.setattr(machine, "visible_gpu_models", lambda: gpus)
        monkeypatch.setattr(machine, "library_versions", lambda: {"torch": torch})
        spec = make_spec(model=LocalModelConfig(name=str(folder), **keys))
        return resolved_model.resolve_model(spec).files.hash_files(tmp_path / "hashes.json")

    on_cpu = fingerprint("float16", [])
    assert on_cpu["dtype"] == "bfloat16"
    assert fingerprint("float16", ["H200"])["dtype"] == "float16"
    assert fingerprint("float16", ["H200"], device="cpu") == on_cpu
    assert fingerprint("float16", ["H200"], torch="2.11.0+cpu") == on_cpu, "a torch that knows of no GPU"
    assert fingerprint("bfloat16", []) == fingerprint("bfloat16", ["H200"]), (
        "the same answers but for rounding"
    )
    assert "dtype" not in fingerprint("float16", [], dtype=Dtype.float16), "the key itself says it"


@pytest.mark.parametrize(
    "name",
    [
        "additional_chat_templates/tool_use.jinja",
        "qwen.tiktoken",
        "tokenizer.model.v3",
        "vocab.bpe",
        "sub/code/part.py",
    ],
)
def test_every_file_that_decides_what_a_model_says_counts(tmp_path: Path, name: str) -> None:
    folder, cache = make_folder(tmp_path / "model"), tmp_path / "hashes.json"
    (folder / "config.json").write_text('{"auto_map": {"AutoModel": "sub/code/part.Model"}}')
    hashes = {model_files.hash_model_files(folder, cache)}
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    for content in ("one", "two"):
        (folder / name).write_text(content)
        hashes.add(model_files.hash_model_files(folder, cache))
    assert len(hashes) == 3
    (folder / ".git").mkdir()
    (folder / ".git" / "hook.py").write_text("not the model's")
    assert model_files.hash_model_files(folder, cache) in hashes


def test_an_edit_in_place_of_the_same_size_and_time_is_seen(tmp_path: Path) -> None:
    folder, cache = make_folder(tmp_path / "model"), tmp_path / "hashes.json"
    file = folder / "model.safetensors"
    before, stat = model_files.hash_model_files(folder, cache), file.stat()
    while (
        file.stat().st_ctime_ns == stat.st_ctime_ns
    ):  # the file system's clock moves in steps of milliseconds
        with file.open("r+b") as stream:
            stream.write(b"v")
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert model_files.hash_model_files(folder, cache) != before


def test_code_of_another_repository_counts_by_its_commit(tmp_path: Path) -> None:
    """In its own process, because huggingface_hub reads the location of its cache when it is
    imported."""
    folder = make_folder(tmp_path / "model")
    reference = {"auto_map": {"AutoModelForCausalLM": "org/open--modeling_x.Model"}}
    (folder / "config.json").write_text(json.dumps(reference))
    program = f"""
from pathlib import Path
from runner_engine.checkpoints.resolved_model import ModelFiles
from runner_engine.settings.model import LocalModelConfig
for trust in (False, True):
    found = ModelFiles.__new__(ModelFiles)
    found.model, found.lora = LocalModelConfig(name={str(folder)!r}, trust_remote_code=trust), None
    print(sorted(found.hash_files(Path({str(tmp_path / "h.json")!r})).items())[:1])
"""
    with Hub(
        {"modeling_x.py": b"class Model: ...", "sub/part.py": b"x", "model.safetensors": b"w" * 100}
    ) as hub:
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment(tmp_path, HF_ENDPOINT=hub.url),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        plain, trusting = done.stdout.splitlines()
        assert "code of" not in plain
        assert trusting == f"[('code of org/open', '{hub.commit}')]"
        snapshot = tmp_path / "hf" / "hub" / "models--org--open" / "snapshots" / hub.commit
        assert sorted(path.name for path in snapshot.rglob("*.py")) == ["modeling_x.py", "part.py"]
        assert not hub.gets("model.safetensors"), "its weights are not needed"
