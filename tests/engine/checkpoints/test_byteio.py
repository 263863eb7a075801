"""Files written in pieces: complete and hashed, or not there at all, and every failure is named."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import threading
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash
from disks import mount_tmpfs
from raising import raises
from safetensors import safe_open
from safetensors.torch import save_file

from runner_base.errors import ConfigError, DataError, JobFailed, OutputError
from runner_engine.checkpoints import file_io
from runner_engine.checkpoints.weight_files import read_weight_file_header

TENSORS = {
    "a.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "b.weight": torch.ones(5, dtype=torch.bfloat16),
    "c.weight": torch.ones(3, 1, dtype=torch.int8),
    "d.weight": torch.ones(4, dtype=torch.float8_e4m3fn),
    "e.scalar": torch.tensor(2, dtype=torch.int64),
    "f.empty": torch.zeros(0, 7, dtype=torch.float16),
}


HASHES: dict[str, Any] = {"sha256": hashlib.sha256, "xxh3_128": xxhash.xxh3_128}


@pytest.mark.parametrize("algorithm", file_io.ALGORITHMS)
def test_a_written_file_opens_with_safetensors(tmp_path: Path, algorithm: str) -> None:
    save_file(TENSORS, tmp_path / "x.safetensors")
    tensors = read_weight_file_header(tmp_path / "x.safetensors").tensors
    header = file_io.build_safetensors_header(tensors, {"format": "pt"})
    hashes: dict[str, str] = {}
    pieces = file_io.iter_safetensors_file_bytes(header, tensors, lambda _: None, hashes, algorithm)
    digest = file_io.write_file_atomically_with_digest(tmp_path / "y.safetensors", pieces, algorithm)
    assert len(header) % 8 == 0
    assert digest == f"{algorithm}:{HASHES[algorithm]((tmp_path / 'y.safetensors').read_bytes()).hexdigest()}"
    assert (
        hashes["a.weight"]
        == f"{algorithm}:{HASHES[algorithm](TENSORS['a.weight'].numpy().tobytes()).hexdigest()}"
    )
    with safe_open(tmp_path / "y.safetensors", "pt") as opened:
        assert opened.metadata() == {"format": "pt"}
        for name, tensor in TENSORS.items():
            found = opened.get_tensor(name)
            assert found.dtype == tensor.dtype
            assert torch.equal(found.view(torch.uint8) if found.ndim else found, as_bytes(tensor))


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.uint8) if tensor.ndim else tensor


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "x"
    target.write_bytes(b"old")

    def broken() -> Any:
        yield b"new"
        raise DataError("the source ended", code="damaged")

    with raises(DataError, "damaged"):
        file_io.write_file_atomically(target, broken())
    with raises(JobFailed, "mismatch"):
        file_io.write_file_atomically(target, [b"new"], "00")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert target.read_bytes() == b"old"


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    mount_tmpfs(disk, "size=64k")
    try:
        with raises(JobFailed, "too_large"):
            file_io.write_file_atomically(disk / "x", [bytes(2**20)])
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with raises(OutputError, "refused"):
        file_io.create_folder(tmp_path / "file" / "sub")
    with raises(OutputError, "refused") as raised:
        file_io.write_file_atomically(tmp_path / "gone" / "x", [b"new"])
    assert str(tmp_path / "gone" / "x") in raised.value.reason
    with raises(ConfigError, "bad_value", "task.output_dir"):
        file_io.list_file_names_in_folder(tmp_path / "file", "task.output_dir")


def test_too_little_room_is_told_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 3 * 2**20))
    file_io.require_disk_space(tmp_path / "not" / "yet", 3 * 2**20)
    with raises(JobFailed, "too_large", "task.output_dir"):
        file_io.require_disk_space(tmp_path / "not" / "yet", 4 * 2**20)


@pytest.mark.parametrize("algorithm", file_io.ALGORITHMS)
def test_digests_of_large_files_are_right_in_their_thread_too(tmp_path: Path, algorithm: str) -> None:
    threads = {*threading.enumerate()}
    content = bytes(range(256)) * 9000 + b"rest"  # several pieces, the last one small
    (tmp_path / "x").write_bytes(content)
    seen: list[int] = []
    digest = file_io.hash_file(tmp_path / "x", algorithm, seen.append)
    assert digest == f"{algorithm}:{HASHES[algorithm](content).hexdigest()}"
    assert (sum(seen), file_io.parse_digest_algorithm(digest)) == (len(content), algorithm)
    pieces = file_io.read_range(tmp_path / "x", 0, len(content))
    assert file_io.write_file_atomically_with_digest(tmp_path / "y", pieces, algorithm, digest) == digest
    assert (tmp_path / "y").read_bytes() == content
    assert file_io.hash_file_sha256(tmp_path / "x") == hashlib.sha256(content).hexdigest()
    assert {*threading.enumerate()} <= threads, "none stays"


@pytest.mark.parametrize("digest", ["", "sha256:", "md5:00", "00"])
def test_what_is_no_digest_is_refused(digest: str) -> None:
    with raises(DataError, "damaged"):
        file_io.parse_digest_algorithm(digest)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with raises(DataError, "unreadable"):
        file_io.hash_file_sha256(tmp_path / "gone")
    (tmp_path / "short").write_bytes(b"123")
    with raises(DataError, "damaged", tmp_path / "short"):
        list(file_io.read_range(tmp_path / "short", 0, 5))


def test_a_link_under_the_name_of_the_unfinished_file_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "x.bin.tmp").symlink_to(tmp_path / "precious")
    file_io.write_file_atomically(tmp_path / "x.bin", [b"new"])
    assert (tmp_path / "x.bin").read_bytes() == b"new"
    assert (tmp_path / "precious").read_text() == "kept"
    assert {path.name for path in tmp_path.iterdir()} == {"precious", "x.bin"}


def test_metadata_are_sorted_in_place_whatever_order_the_library_wrote(tmp_path: Path) -> None:
    metadata = {f'key {number} é\x1f"': f"value\n{number}" for number in range(40)}
    written = set()
    for number in range(8):  # the library's order is drawn anew for each file
        file = tmp_path / f"{number}.safetensors"
        save_file(TENSORS, file, metadata)
        size = file.stat().st_size
        file_io.sort_safetensors_metadata(file)
        assert file.stat().st_size == size
        with safe_open(file, "pt") as opened:
            assert opened.metadata() == metadata
            assert all(
                torch.equal(opened.get_tensor(name), TENSORS[name]) for name in ("a.weight", "e.scalar")
            )
        written.add(file.read_bytes())
    assert len(written) == 1
