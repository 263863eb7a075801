"""Archives and files that cannot be trusted are rejected by name, before they take memory or time."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
from other_logs import log_of

from runner.compare.other_tools import files
from runner.compare.other_tools.files import Archive, parse, read_bytes
from runner.core.errors import DataError


def test_an_archive_that_is_cut_off_or_changed_is_rejected(tmp_path: Path) -> None:
    whole, path = log_of("none").read_bytes(), tmp_path / "a.eval"
    for end in (0, 10, 5000, len(whole) - 30):
        path.write_bytes(whole[:end])
        with pytest.raises(DataError, match="a.eval: damaged, or not a zip archive"):
            Archive(path)
    at = whole.index(b"header.json") + 100  # inside of the packed header
    path.write_bytes(whole[:at] + bytes(20) + whole[at + 20 :])
    with pytest.raises(DataError, match="a.eval"):
        Archive(path).json("header.json")


def test_the_files_of_an_archive_are_read_and_never_written(tmp_path: Path) -> None:
    path = tmp_path / "in" / "a.eval"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("samples/../../../evil.json", '{"a": 1}')
        archive.writestr("/etc/evil.json", '{"a": 2}')
    assert list(Archive(path).json_below("samples/")) == [{"a": 1}]
    assert [file.name for file in tmp_path.rglob("*")] == ["in", "a.eval"]


def test_an_archive_that_would_unpack_to_too_much_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.eval"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", " " * 3 * files.MIB)
    monkeypatch.setattr(files, "MAX_MEMBER_BYTES", 2 * files.MIB)
    with pytest.raises(DataError, match="header.json has 3 MiB, more than are read"):
        Archive(path)
    monkeypatch.setattr(files, "MAX_MEMBER_BYTES", 4 * files.MIB)
    monkeypatch.setattr(files, "MAX_ARCHIVE_BYTES", 2 * files.MIB)
    with pytest.raises(DataError, match="unpacked it has more than 2 MiB"):
        Archive(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, files.ZSTD])
def test_a_file_that_is_larger_than_the_archive_says_is_not_unpacked(tmp_path: Path, method: int) -> None:
    source = log_of("none")
    path = tmp_path / "a.eval"
    if method == zipfile.ZIP_DEFLATED:
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("header.json", '{"a": "' + "b" * 100_000 + '"}')
        size = 100_009
    else:
        path.write_bytes(source.read_bytes())
        size = next(it.file_size for it in Archive(source).members if it.filename == "header.json")
    content = path.read_bytes()
    changed = content.replace(size.to_bytes(4, "little"), (50).to_bytes(4, "little"))
    assert changed != content
    path.write_bytes(changed)
    with pytest.raises(DataError, match="a.eval"):
        Archive(path).json("header.json")


def test_duplicates_and_encrypted_files_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.eval"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("header.json", "{}")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("header.json", '{"status": "success"}')
    with pytest.raises(DataError, match="header.json is duplicated in it"):
        Archive(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("header.json", "[]")
    with pytest.raises(DataError, match="header.json: a JSON object is expected"):
        Archive(path).json("header.json")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= files.ENCRYPTED
    path.write_bytes(content)
    with pytest.raises(DataError, match="header.json is encrypted"):
        Archive(path).json("header.json")


def test_files_that_are_no_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, empty = tmp_path / "pipe", tmp_path / "empty"
    os.mkfifo(pipe)
    empty.write_text(" \n")
    for call in (read_bytes, Archive):
        with pytest.raises(DataError, match="this is not a file"):
            call(pipe)
    with pytest.raises(DataError, match="the file is empty"):
        read_bytes(empty)
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 1)
    with pytest.raises(DataError, match="larger than 0 MiB"):
        read_bytes(empty)
    for raw, reason in ((b"\xff", "not UTF-8"), (b"{", "not JSON"), (b"[" * 200 + b"]" * 200, "nested deeper")):
        with pytest.raises(DataError, match=f"name: {reason}"):
            parse(raw, "name")


def test_paths_without_results_are_rejected(rejected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.json").write_text("{}")
    os.mkfifo(tmp_path / "pipe.eval")
    assert "--results nowhere: there is no such file or folder" in rejected("nowhere")
    assert "--results folder: no results of a known tool in it: inspect_ai" in rejected("folder")
    assert "--results pipe.eval: this is neither a file nor a folder" in rejected("pipe.eval")
    os.mkfifo(tmp_path / "folder" / "pipe.eval")
    assert "folder/pipe.eval: this is not a file" in rejected("folder")
    assert "--grid: --results reads folders and no MLflow store" in rejected("folder", "--grid", "last")
    assert "--lm-eval and --results: give all folders to --results" in rejected("folder", "--lm-eval", "folder")
