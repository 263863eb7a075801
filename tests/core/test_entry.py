"""A command ends without taking its objects apart, after all that has to happen at the end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runner_base import entry

PROGRAM = """
import atexit, os, sys, tempfile, threading, time
from runner_base.entry import run_command

class Left:
    def __del__(self, write=os.write):
        write(1, b"taken apart")

def work():
    global folder
    setattr(sys, "left", Left())
    folder = tempfile.TemporaryDirectory()
    print(folder.name)
    atexit.register(print, "at exit")
    threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
    if "trace" in sys.argv:
        sys.settrace(lambda *_: None)
    return 3

run_command("runner", work)
"""


@pytest.mark.parametrize(
    ("name", "arguments", "is_quick"),
    [("runner", [], True), ("program", [], False), ("runner", ["trace"], False)],
)
def test_only_the_command_itself_leaves_its_objects(
    tmp_path: Path, name: str, arguments: list[str], is_quick: bool
) -> None:
    (tmp_path / name).write_text(PROGRAM)
    environment = os.environ | {"PYTHONPATH": str(Path(entry.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, str(tmp_path / name), *arguments],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    folder, *lines = done.stdout.splitlines()
    assert done.returncode == 3
    assert lines == ["thread", "at exit", *([] if is_quick else ["taken apart"])]
    assert not Path(folder).exists()
