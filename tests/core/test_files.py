"""Locks between processes, and files that are replaced as a whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from raising import raises

from runner_base.errors import ConfigError, OutputError
from runner_base.files import (
    is_locked,
    lock_file,
    lock_folder,
    replace_atomically,
    replace_text_file_atomically,
    write_text_atomically,
)


def test_a_file_is_held_once_and_free_afterwards(tmp_path: Path) -> None:
    file = tmp_path / "new" / ".lock"
    assert not is_locked(file)
    with lock_file(file):
        assert is_locked(file)
        with pytest.raises(BlockingIOError):
            lock_file(file, should_wait=False)
    assert not is_locked(file)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="it is a pipe"):
        lock_file(tmp_path / "pipe")


def test_a_folder_is_written_by_one_process_at_a_time(tmp_path: Path) -> None:
    refusal = raises(ConfigError, "busy", "task.output_dir")
    with lock_folder(tmp_path, "task.output_dir"), refusal, lock_folder(tmp_path, "task.output_dir"):
        pass
    with lock_folder(tmp_path, "task.output_dir"):
        pass


def test_a_file_is_replaced_or_stays_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "file"

    def fail(fresh: Path) -> None:
        fresh.write_text("a part")
        raise OSError("no room")

    replace_text_file_atomically(file, "old")
    with pytest.raises(OSError, match="no room"):
        replace_atomically(file, fail)
    assert [(path.name, path.read_text()) for path in file.parent.iterdir()] == [("file", "old")]
    write_text_atomically(file, "new")
    assert file.read_text() == "new"
    with raises(OutputError, "refused"):
        write_text_atomically(tmp_path / "none" / "file", "text", "task.output")


WRITES = 200
WRITER = """
import os, sys
from pathlib import Path
from runner_base.files import lock_file, lock_folder, is_locked, replace_text_file_atomically, replace_atomically, write_text_atomically
for _ in range(int(sys.argv[3])):
    write_text_atomically(Path(sys.argv[1]), sys.argv[2] * 300_000)
print(os.getpid())
"""


def read_whole(file: Path, letters: str) -> None:
    """Check that what is read is all that one of the writers has written."""
    text = file.read_text() if file.exists() else ""
    assert text in ("", *(letter * 300_000 for letter in letters))


@pytest.mark.thorough
def test_two_writers_in_containers_have_one_process_id_and_do_not_meet(tmp_path: Path) -> None:
    file = tmp_path / "file"
    alone = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--pid", "--fork"]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no namespaces here")  # the test with threads, below, finds the same fault
    writers = [
        subprocess.Popen(
            [*alone, sys.executable, "-c", WRITER, file, letter, str(WRITES)], stdout=subprocess.PIPE
        )
        for letter in "ab"
    ]
    while any(writer.poll() is None for writer in writers):
        read_whole(file, "ab")
    assert [writer.communicate()[0] for writer in writers] == [b"1\n", b"1\n"], "the same process id"
    assert [writer.returncode for writer in writers] == [0, 0]
    assert list(tmp_path.iterdir()) == [file], "and nothing is left"


def test_two_threads_of_a_process_write_one_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with ThreadPoolExecutor(4) as threads:
        writing = [
            threads.submit(write_text_atomically, file, letter * 300_000) for letter in "abcd" * WRITES
        ]
        while not all(it.done() for it in writing):
            read_whole(file, "abcd")
    assert [it.exception() for it in writing] == [None] * len(writing)
    assert list(tmp_path.iterdir()) == [file]


def test_a_name_that_exists_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda _: "0")
    theirs = tmp_path / ".file.0.tmp"
    theirs.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        replace_text_file_atomically(tmp_path / "file", "text")
    assert list(tmp_path.iterdir()) == [theirs], "nothing was written through the link, and it is still there"


def test_an_interrupt_leaves_no_part(tmp_path: Path) -> None:
    def interrupted(fresh: Path) -> None:
        fresh.write_text("a part")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_atomically(tmp_path / "file", interrupted)
    assert list(tmp_path.iterdir()) == []
