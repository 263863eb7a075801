"""Locks between processes, and files that are replaced as a whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runner.core.errors import ConfigError, OutputError
from runner.core.files import hold, hold_folder, is_held, replace_with, write_atomically


def test_a_file_is_held_once_and_free_afterwards(tmp_path: Path) -> None:
    file = tmp_path / "new" / ".lock"
    assert not is_held(file)
    with hold(file):
        assert is_held(file)
        with pytest.raises(BlockingIOError):
            hold(file, wait=False)
    assert not is_held(file)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="it is a pipe"):
        hold(tmp_path / "pipe")


def test_a_folder_is_written_by_one_process_at_a_time(tmp_path: Path) -> None:
    refusal = pytest.raises(ConfigError, match=f"^task.output_dir={tmp_path}: another process is writing there")
    with hold_folder(tmp_path, "task.output_dir"), refusal, hold_folder(tmp_path, "task.output_dir"):
        pass
    with hold_folder(tmp_path, "task.output_dir"):
        pass


def test_a_file_is_replaced_or_stays_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "file"

    def fail(fresh: Path) -> None:
        fresh.write_text("a part")
        raise OSError("no room")

    replace_with(file, lambda fresh: fresh.write_text("old"))
    with pytest.raises(OSError, match="no room"):
        replace_with(file, fail)
    assert [(path.name, path.read_text()) for path in file.parent.iterdir()] == [("file", "old")]
    write_atomically(file, "new")
    assert file.read_text() == "new"
    with pytest.raises(
        OutputError, match=r"cannot write .*/none/file \(No such file or directory\).* task.output=\.\.\."
    ):
        write_atomically(tmp_path / "none" / "file", "text", "task.output")
