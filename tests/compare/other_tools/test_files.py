"""Archives and files that cannot be trusted are rejected by name, before they take memory or
time."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from other_logs import log_of
from raising import raises

from runner_base.errors import DataError
from runner_compare.readers import archive, files
from runner_compare.readers.archive import Archive
from runner_compare.readers.archive_files import read_archive
from runner_compare.readers.files import parse_json_bytes, read_bytes


def opened(path: Path) -> None:
    with Archive(path) as whole:
        whole.read_member("header.json")


def test_an_archive_that_is_cut_off_or_changed_is_rejected(tmp_path: Path) -> None:
    whole, path = log_of("none").read_bytes(), tmp_path / "a.eval"
    for end in (0, 10, 5000, len(whole) - 30):
        path.write_bytes(whole[:end])
        with raises(DataError, "damaged", str(path)):
            opened(path)
    at = whole.index(b"header.json") + 100  # inside of the packed header
    path.write_bytes(whole[:at] + bytes(20) + whole[at + 20 :])
    with raises(DataError, "damaged", str(path)):
        opened(path)


def test_the_files_of_an_archive_are_read_and_never_written(tmp_path: Path) -> None:
    path = tmp_path / "in" / "a.eval"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("samples/../../../evil.json", '{"a": 1}')
        packed.writestr("/etc/evil.json", '{"a": 2}')
    with Archive(path) as opened_archive:
        assert [
            json.loads(opened_archive.read_member(name))
            for name in opened_archive.json_names_in_folder("samples/")
        ] == [{"a": 1}]
    assert [file.name for file in tmp_path.rglob("*")] == ["in", "a.eval"]


def test_an_archive_that_would_unpack_to_too_much_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.eval"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("header.json", " " * 3 * files.MIB)
    monkeypatch.setattr(archive, "MAX_MEMBER_BYTES", 2 * files.MIB)
    with raises(DataError, "too_large", str(path)):
        opened(path)
    monkeypatch.setattr(archive, "MAX_MEMBER_BYTES", 4 * files.MIB)
    monkeypatch.setattr(archive, "MAX_ARCHIVE_BYTES", 2 * files.MIB)
    with raises(DataError, "too_large", str(path)):
        opened(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, archive.ZSTD])
def test_a_file_that_is_larger_than_the_archive_says_is_not_unpacked(tmp_path: Path, method: int) -> None:
    source = log_of("none")
    path = tmp_path / "a.eval"
    if method == zipfile.ZIP_DEFLATED:
        with zipfile.ZipFile(path, "w", method) as packed:
            packed.writestr("header.json", '{"a": "' + "b" * 100_000 + '"}')
        size = 100_009
    else:
        path.write_bytes(source.read_bytes())
        with Archive(source) as whole:
            size = whole.members["header.json"].file_size
    content = path.read_bytes()
    changed = content.replace(size.to_bytes(4, "little"), (50).to_bytes(4, "little"))
    assert changed != content
    path.write_bytes(changed)
    with raises(DataError, "damaged", str(path)):
        opened(path)


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_all_files_of_an_archive_together_have_a_largest_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path, contents = tmp_path / f"results.{kind}", {f"run {at}/results.json": b"{}" for at in range(3)}
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as packed:
            for name, content in contents.items():
                packed.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz") as tar:
            for name, content in contents.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    monkeypatch.setattr("runner_compare.readers.archive_files.MAX_FILE_BYTES", 6)
    assert read_archive(path, {"results.json"}) == contents
    monkeypatch.setattr("runner_compare.readers.archive_files.MAX_FILE_BYTES", 5)
    with raises(DataError, "too_large", str(path)):
        read_archive(path, {"results.json"})


def test_duplicates_and_encrypted_files_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.eval"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("header.json", "{}")
        with pytest.warns(UserWarning, match="Duplicate"):
            packed.writestr("header.json", '{"status": "success"}')
    with raises(DataError, "damaged", str(path)):
        opened(path)
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("header.json", "{}")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= archive.ENCRYPTED
    path.write_bytes(content)
    with raises(DataError, "unreadable", str(path)):
        opened(path)


def test_files_that_are_no_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, empty = tmp_path / "pipe", tmp_path / "empty"
    os.mkfifo(pipe)
    empty.write_text(" \n")
    for call in (read_bytes, Archive):
        with raises(DataError, "unreadable", str(pipe)):
            call(pipe)
    with raises(DataError, "empty", str(empty)):
        read_bytes(empty)
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 1)
    with raises(DataError, "too_large", str(empty)):
        read_bytes(empty)
    for raw in (b"\xff", b"{", b"[" * 200 + b"]" * 200):
        with raises(DataError, "damaged", "name"):
            parse_json_bytes(raw, "name")


def test_paths_without_results_are_rejected(
    rejected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.json").write_text("{}")
    os.mkfifo(tmp_path / "pipe.eval")
    assert "--results nowhere: there is no such file or folder" in rejected("nowhere")
    assert "--results folder: the path has no results of a supported tool (runner, inspect_ai, " in rejected(
        "folder"
    )
    assert "--results pipe.eval: the path is neither a file nor a folder" in rejected("pipe.eval")
    os.mkfifo(tmp_path / "folder" / "pipe.eval")
    assert "folder/pipe.eval: this is not a file" in rejected("folder")
    assert "--grid: --results does not use an MLflow store" in rejected("folder", "--grid", "last")
    assert "--lm-eval and --results: give all folders to --results" in rejected(
        "folder", "--lm-eval", "folder"
    )


def test_files_with_nothing_in_them_do_not_reject_a_folder(run: Any, rejected: Any, tmp_path: Path) -> None:
    for name in ("none", "nf4"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.eval").symlink_to(log_of(name))
    (tmp_path / "none" / "empty.json").touch()
    (tmp_path / "none" / "blank.json").write_text(" \n")
    (tmp_path / "nf4" / "gone.json").symlink_to(tmp_path / "nowhere.json")
    code, _, err = run(tmp_path / "none", tmp_path / "nf4")
    assert code == 0
    notes = " ".join(err.split())
    assert f"{tmp_path}/none/blank.json (empty), {tmp_path}/none/empty.json (empty)" in notes
    assert f"{tmp_path}/nf4/gone.json (a broken symbolic link)" in notes
    # it was named
    assert "empty.json: the file is empty" in rejected(tmp_path / "none" / "empty.json")
    (tmp_path / "none" / "half.json").write_text('{"eval": ')
    assert "half.json: not JSON" in rejected(tmp_path / "none")  # it may be somebody's results
