"""The folders of written programs after a real SIGKILL: the next start removes them, and no other
process's."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from runner.sandbox import code_folders

RUNS = "from runner.sandbox.sandbox import Sandbox, SandboxLimits\nSandbox(SandboxLimits(seconds=60)).run_program(%r)"
ENDLESS = "while True:\n    pass"


@pytest.mark.slow
def test_what_a_kill_leaves_is_removed_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with subprocess.Popen([sys.executable, "-c", RUNS % ENDLESS], cwd=Path.cwd()) as process:
        try:
            while not [*tmp_path.glob("runner-code-*")]:
                assert process.poll() is None
        finally:
            process.send_signal(signal.SIGKILL)
    (left,) = tmp_path.glob("runner-code-*")
    left.chmod(0)
    again = [sys.executable, "-c", RUNS % "answer = 6 * 7"]
    with code_folders.create_temporary_code_folder() as other:  # of a process that lives
        (tmp_path / "runner-code-file").write_text("no folder")
        subprocess.run(again, check=True)
        assert {path.name for path in tmp_path.iterdir()} == {Path(other).name, "runner-code-file"}
    assert [path.name for path in tmp_path.iterdir()] == ["runner-code-file"]
