"""Safetensors headers: valid ones are read correctly, invalid ones are rejected by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from raising import raises
from safetensors.torch import save_file

from runner_base.errors import DataError
from runner_engine.checkpoints import file_io
from runner_engine.checkpoints import weight_files as ckpt

TENSORS = {
    "a.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "b.weight": torch.ones(5, dtype=torch.bfloat16),
    "c.weight": torch.ones(3, 1, dtype=torch.int8),
    "d.weight": torch.ones(4, dtype=torch.float8_e4m3fn),
    "e.scalar": torch.tensor(2, dtype=torch.int64),
    "f.empty": torch.zeros(0, 7, dtype=torch.float16),
}


def raw_file(path: Path, header: str | dict[str, Any], data_bytes: int) -> Path:
    """Write a safetensors file with the given header."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(data_bytes))
    return path


def entry(begin: int, end: int, shape: Any = (4,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def sharded(folder: Path, weight_map: dict[str, str], **shards: list[str]) -> Path:
    """Write a checkpoint of two shards, s1 and s2, with the given index."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    for shard, names in shards.items():
        save_file({name: torch.ones(2) for name in names}, folder / f"{shard}.safetensors")
    (folder / ckpt.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def test_a_header_is_read_as_safetensors_wrote_it(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path, metadata={"format": "pt"})
    file = ckpt.read_weight_file_header(path)
    assert file.metadata == {"format": "pt"}
    assert {t.name: (t.shape, t.num_elements, t.nbytes) for t in file.tensors} == {
        name: (tuple(tensor.shape), tensor.numel(), tensor.nbytes) for name, tensor in TENSORS.items()
    }
    first = next(t for t in file.tensors if t.name == "a.weight")
    content = b"".join(bytes(piece) for piece in file_io.read_range(path, first.offset, first.nbytes))
    assert content == TENSORS["a.weight"].numpy().tobytes()


@pytest.mark.parametrize(
    ("header", "data_bytes", "message"),
    [
        ({"w": entry(0, 16)}, 12, r"truncated: tensor w ends at byte \d+, but the file ends at \d+"),
        ({"w": entry(0, 16)}, 20, r"the file has \d+ bytes, but .* header describes \d+: 4 bytes too many"),
        (
            {"v": entry(0, 16), "w": entry(8, 24)},
            24,
            r"tensor w overlaps .* starts at byte \d+ instead of \d+",
        ),
        ({"v": entry(0, 16), "w": entry(20, 36)}, 36, r"tensor w leaves a gap"),
        (
            {"w": entry(0, 8)},
            8,
            r"tensor w: F32 of shape \[4\] needs 16 bytes, but data_offsets 0\.\.8 span 8",
        ),
        ({"w": entry(0, 1, (3,), "F4")}, 1, r"tensor w: F4 of shape \[3\] needs 1\.5 bytes"),
        ({"w": entry(16, 0)}, 16, r"tensor w: F32 .* data_offsets 16\.\.0 span -16"),
        ({"w": entry(-16, 0)}, 16, r"tensor w has an invalid entry .*\[-16, 0\]"),
        ({"w": entry(0, 16, (True, 4))}, 16, r"tensor w has an invalid entry .*\[True, 4\]"),
        ({"w": entry(0, 16, (4,), "F33")}, 16, r"tensor w has unknown dtype 'F33'\. Known dtypes: F4"),
        ({"w": entry(0, 16, (4,), None)}, 16, r"tensor w has unknown dtype None\. Known dtypes: F4"),
        (
            {"w": {"dtype": "F32"}},
            16,
            r"tensor w has an invalid entry \{'dtype': 'F32'\}\. Expected dtype, shape and data_offsets",
        ),
        ({"w": 3}, 16, r"tensor w has an invalid entry 3\. Expected"),
        ({"__metadata__": {"format": 1}}, 0, r"__metadata__ must map names to text"),
        ('{"w": %s, "w": %s}' % ((json.dumps(entry(0, 16)),) * 2), 16, r"the key 'w' is duplicated"),
        ('{"w": {"dtype": "F32", "dtype": "F16"}}', 0, r"the key 'dtype' is duplicated"),
        ("[1]", 0, r"a JSON object expected, found \[1\]"),
        ("{nonsense", 0, r"not readable as JSON"),
    ],
)
def test_a_header_that_lies_is_refused(
    tmp_path: Path, header: str | dict[str, Any], data_bytes: int, message: str
) -> None:
    path = raw_file(tmp_path / "bad.safetensors", header, data_bytes)
    with pytest.raises(DataError, match=rf"bad\.safetensors: .*{message}"):
        ckpt.read_weight_file_header(path)


@pytest.mark.parametrize("content", [b"", b"\x05\0\0", (10**6).to_bytes(8, "little") + b"{}", b"\xff" * 64])
def test_a_file_that_is_too_short_for_its_header_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with raises(DataError, "damaged", path):
        ckpt.read_weight_file_header(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with raises(DataError, "unreadable"):
        ckpt.read_weight_file_header(tmp_path / "gone.safetensors")


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        (
            {"a": "s1.safetensors", "b": "s2.safetensors", "z": "s2.safetensors"},
            r"tensor z .* but no file contains it",
        ),
        (
            {"a": "s2.safetensors", "b": "s2.safetensors", "c": "s1.safetensors"},
            r"lists tensor a in s2\.safetensors, but it is in s1\.safetensors",
        ),
        (
            {"a": "s1.safetensors", "b": "../evil.safetensors"},
            r"tensor b .*'\.\./evil\.safetensors'; expected a bare",
        ),
        ({"a": "s1.safetensors", "b": "/etc/evil.safetensors"}, r"expected a bare file name"),
        ({"a": "s1.safetensors", "b": ["s2"]}, r"expected a bare file name"),
        ({"a": "s1.safetensors", "b": "s3.safetensors"}, r"lists s3\.safetensors, which does not exist"),
        ({"a": "s1.safetensors", "b": "s2.safetensors"}, r"does not list tensor c of s2\.safetensors"),
        ({}, r"weight_map is \{\}\. Expected a map from tensor names to file names"),
    ],
)
def test_an_index_that_lies_is_refused(tmp_path: Path, weight_map: dict[str, Any], message: str) -> None:
    folder = sharded(tmp_path / "model", weight_map, s1=["a"], s2=["b", "c"])
    with pytest.raises(DataError, match=message):
        ckpt.read_checkpoint(folder)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    weight_map = {"a": "s1.safetensors", "b": "s2.safetensors"}
    folder = sharded(tmp_path / "model", weight_map, s1=["a"], s2=["a", "b"])
    with raises(DataError, "ambiguous"):
        ckpt.read_checkpoint(folder)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with raises(DataError, "not_found"):
        ckpt.read_checkpoint(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with raises(DataError, "not_found") as raised:
        ckpt.read_checkpoint(tmp_path)
    assert "pytorch_model.bin" in raised.value.reason


def test_safetensors_come_before_bin_and_a_bin_is_read_by_who_can(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    by_hand = ckpt.WeightFile(tmp_path / "pytorch_model.bin", 1, b"", {}, [])
    checkpoint = ckpt.read_checkpoint(tmp_path, lambda path: by_hand)
    assert (checkpoint.format, checkpoint.files) == ("bin", [by_hand])
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    checkpoint = ckpt.read_checkpoint(tmp_path, lambda path: by_hand)
    assert (checkpoint.format, checkpoint.left_out) == ("safetensors", ["pytorch_model.bin"])


def test_companions_are_all_that_is_not_weights(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    names = ("LICENSE", "config.json", "tokenizer.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
    for name in (*names, "consolidated.safetensors", ".hidden"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "runs").mkdir()
    checkpoint = ckpt.read_checkpoint(tmp_path)
    assert [path.name for path in checkpoint.companions] == ["LICENSE", "config.json", "tokenizer.json"]
    assert checkpoint.left_out == ["consolidated.safetensors", *names[3:], "runs/"]
