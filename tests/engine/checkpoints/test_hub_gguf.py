"""OWNER/MODEL:QUANT names one .gguf file of a hub."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_standin import Hub
from raising import raises

from runner_base import ConfigError
from runner_engine.checkpoints import count_weight_file_nbytes
from runner_engine.checkpoints.hub_gguf import HubGgufName, parse_hub_gguf_name
from runner_engine.checkpoints.model_files import hash_model_files

FILES = {
    "tiny-Q4_K_M.gguf": b"GGUF four",
    "tiny-Q4_K_S.gguf": b"GGUF small",
    "tiny.q8_0.gguf": b"GGUF eight",
    "tiny-BF16-00001-of-00002.gguf": b"GGUF first",
    "tiny-BF16-00002-of-00002.gguf": b"GGUF second",
    "mmproj-tiny-Q8_0.gguf": b"GGUF eyes",
    "README.md": b"#",
}


def test_a_name_is_such_or_is_not() -> None:
    assert parse_hub_gguf_name("org/open:Q4_K_M") == HubGgufName("org/open", "Q4_K_M")
    for other in ("org/open", "./org/open.gguf", "C:/models/x.gguf", "a/b/c:Q8_0", "embedded"):
        assert parse_hub_gguf_name(other) is None, other


@pytest.mark.parametrize(
    ("quant", "file"),
    [
        ("Q4_K_M", "tiny-Q4_K_M.gguf"),
        ("q4_k_s", "tiny-Q4_K_S.gguf"),
        ("Q8_0", "tiny.q8_0.gguf"),
        ("BF16", "tiny-BF16-00001-of-00002.gguf"),
    ],
)
def test_the_one_file_is_picked(tmp_path: Path, quant: str, file: str) -> None:
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    assert HubGgufName("org/open", quant).find_quantized_gguf_file(tmp_path, "model.name").name == file


def test_none_and_several_are_errors(tmp_path: Path) -> None:
    for name in ("a-Q4_0.gguf", "b-Q4_0.gguf"):
        (tmp_path / name).touch()
    with raises(ConfigError, "ambiguous", "model.name") as raised:
        HubGgufName("org/open", "Q4_0").find_quantized_gguf_file(tmp_path, "model.name")
    assert "a-Q4_0.gguf, b-Q4_0.gguf" in raised.value.reason
    with raises(ConfigError, "not_found", "model.name") as raised:
        HubGgufName("org/open", "Q9").find_quantized_gguf_file(tmp_path, "model.name")
    assert raised.value.value == "org/open:Q9"


def test_only_that_file_is_fetched(tmp_path: Path) -> None:
    program = (
        "from runner_engine import LocalModelConfig\n"
        "from runner_engine.checkpoints.locating import locate_model\n"
        "print(locate_model(LocalModelConfig('org/open:q4_k_m')).read_text())"
    )
    with Hub(FILES) as hub:
        variables = os.environ | {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_OFFLINE": "0",
        }
        done = subprocess.run(
            [sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=False
        )  # fmt: skip
        assert done.stdout == "GGUF four\n", done.stderr
        fetched = {seen.path.rpartition("/")[2] for seen in hub.seen if "/resolve/" in seen.path}
    assert fetched == {"tiny-Q4_K_M.gguf"}


def test_all_parts_of_a_split_file_count_for_its_size_and_its_hash(tmp_path: Path) -> None:
    parts = [tmp_path / f"tiny-BF16-0000{number}-of-00002.gguf" for number in (1, 2)]
    for part in parts:
        part.write_bytes(FILES[part.name])
    (tmp_path / "tiny-Q4_K_M.gguf").write_bytes(FILES["tiny-Q4_K_M.gguf"])
    assert count_weight_file_nbytes(parts[0]) == sum(len(FILES[part.name]) for part in parts)
    assert count_weight_file_nbytes(tmp_path / "tiny-Q4_K_M.gguf") == len(FILES["tiny-Q4_K_M.gguf"])
    before = hash_model_files(parts[0], tmp_path / "hashes.json")
    parts[1].write_bytes(b"GGUF seconD")
    assert hash_model_files(parts[0], tmp_path / "hashes.json") != before
