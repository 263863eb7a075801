from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from runner.config import LoraConfig, ModelConfig, PeftConfig, StubConfig
from runner.errors import ConfigError
from runner.model import source


def make_folder(path: Path, weights: bytes = b"w" * 100) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(weights)
    return path


def test_hash_follows_content_not_place(tmp_path: Path) -> None:
    one, copy = make_folder(tmp_path / "one"), make_folder(tmp_path / "copy")
    other = make_folder(tmp_path / "other", b"v" * 100)
    cache = tmp_path / "hashes.json"
    hashes = [source.evidence(ModelConfig(name=str(f)), LoraConfig(), cache)["model"] for f in (one, copy, other)]
    assert hashes[0] == hashes[1] != hashes[2]
    (one / "notes.md").write_text("not part of the model")
    assert source.folder_sha256(one, cache) == hashes[0]
    (one / "config.json").write_text('{"changed": 1}')
    assert source.folder_sha256(one, cache) != hashes[0]


def test_unchanged_files_are_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, cache, read = make_folder(tmp_path / "model"), tmp_path / "hashes.json", []
    real = source.file_sha256
    monkeypatch.setattr(source, "file_sha256", lambda file: read.append(file.name) or real(file))
    first = source.folder_sha256(folder, cache)
    assert source.folder_sha256(folder, cache) == first
    assert sorted(read) == ["config.json", "model.safetensors"]
    cache.write_text("{torn")
    assert source.folder_sha256(folder, cache) == first
    assert len(read) == 4


def test_stub_and_adapter_evidence(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.safetensors").write_bytes(b"a")
    base, cache = make_folder(tmp_path / "model"), tmp_path / "h.json"
    assert source.evidence(StubConfig(), LoraConfig(), cache) == {"model": "stub"}
    both = source.evidence(ModelConfig(name=str(base)), PeftConfig(path=str(adapter)), cache)
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
        source.locate(ModelConfig(name=name))


def test_a_file_and_an_empty_folder_are_no_model(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file, a model is a folder"):
        source.locate(ModelConfig(name=str(tmp_path / "file")))
    with pytest.raises(ConfigError, match="holds no config.json"):
        source.locate(ModelConfig(name=str(tmp_path)))
    with pytest.raises(ConfigError, match="adapter_config.json"):
        source.locate_adapter(PeftConfig(path=str(tmp_path)), ModelConfig(name="x"))
    with pytest.raises(ConfigError, match="lora.path=embedded fits only model=embedded"):
        source.locate_adapter(PeftConfig(path="embedded"), ModelConfig(name=str(tmp_path)))


class Hub(http.server.BaseHTTPRequestHandler):
    """A hub stand-in with one open model, one gated and one that nobody has."""

    files: ClassVar[dict[str, bytes]] = {"config.json": b'{"model_type": "llama"}', "model.safetensors": b"w" * 5000}
    commit = "a" * 40

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path, status, headers, data = self.path.split("?")[0], 404, {}, b"{}"
        if "missing" in path:
            headers["X-Error-Code"] = "RepoNotFound"
        elif "gated" in path:
            status, headers["X-Error-Code"] = 403, "GatedRepo"
        elif path.startswith("/api/models/org/open/revision/nope"):
            headers["X-Error-Code"] = "RevisionNotFound"
        elif path.startswith("/api/models/org/open"):
            status = 200
            entries = [{"rfilename": name} for name in self.files]
            data = json.dumps({"id": "org/open", "sha": self.commit, "siblings": entries}).encode()
            if "/tree/" in path:
                tree = [{"type": "file", "path": n, "size": len(d), "oid": "0" * 40} for n, d in self.files.items()]
                data = json.dumps(tree).encode()
        elif path.startswith("/org/open/resolve/"):
            status, data = 200, self.files[path.rsplit("/", 1)[1]]
            headers |= {"ETag": f'"{len(data)}"', "X-Repo-Commit": self.commit}
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def locate_in_a_process(folder: Path, name: str, revision: str | None = None, **environment: str) -> str:
    """Run `locate` where the hub's address can still be chosen: huggingface_hub reads it when it is imported."""
    program = f"""
from runner.config import ModelConfig
from runner.errors import ConfigError
from runner.model.source import locate
try:
    print("at", locate(ModelConfig(name={name!r}, revision={revision!r})))
except ConfigError as error:
    print("error:", error)
"""
    env = {**os.environ, "HF_HOME": str(folder / "cache"), **environment}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_hub_download_then_offline_from_the_cache(tmp_path: Path, hub: str) -> None:
    online = {"HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0"}
    first = locate_in_a_process(tmp_path, "org/open", **online)
    assert first.startswith("at ")
    assert (Path(first[3:]) / "model.safetensors").read_bytes() == Hub.files["model.safetensors"]
    assert locate_in_a_process(tmp_path, "org/open", HF_HUB_OFFLINE="1") == first


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("org/missing", None, "the hub has no such model"),
        ("org/gated", None, "is gated: accept its licence on the hub and set HF_TOKEN"),
        ("org/open", "nope", "model.revision=nope: org/open has no such branch, tag or commit"),
    ],
)
def test_hub_errors_in_one_message(tmp_path: Path, hub: str, name: str, revision: str | None, message: str) -> None:
    said = locate_in_a_process(tmp_path, name, revision, HF_ENDPOINT=hub, HF_HUB_OFFLINE="0")
    assert message in said


def test_no_network_and_nothing_in_the_cache(tmp_path: Path) -> None:
    said = locate_in_a_process(tmp_path, "org/open", HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="0")
    assert "it is not in the cache and the hub cannot be reached" in said
