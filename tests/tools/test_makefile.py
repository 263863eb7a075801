"""The Makefile chooses the newest Python that runs and can make an environment."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")


def commands_of(folder: Path, **programs: str) -> str:
    """Return the commands of `make install`, with Pythons that are these shell scripts."""
    for name in ("python3.11", "python3.12", "python3.13"):
        text = programs.get(name.replace(".", "_"), "exit 127")  # as a command of pyenv's
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "PYTHON"))}
    variables["PATH"] = f"{folder}:{variables['PATH']}"
    command = ["make", "--always-make", "--dry-run", "install"]
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=True).stdout


def test_the_newest_python_that_runs_is_chosen(tmp_path: Path) -> None:
    found = commands_of(tmp_path, python3_11="exit 0", python3_12="exit 0", python3_13="exit 0")
    assert "\npython3.13 -m tools.install" in found
    assert "\npython3.12 -m tools.install" in commands_of(tmp_path, python3_11="exit 0", python3_12="exit 0")


def test_a_python_that_does_not_run_or_makes_no_environment_is_passed_over(tmp_path: Path) -> None:
    without_venv = 'case "$2" in *ensurepip*) exit 1;; esac'
    found = commands_of(tmp_path, python3_11="exit 0", python3_13=without_venv)
    assert "\npython3.11 -m tools.install" in found


def test_without_any_the_reason_is_printed(tmp_path: Path) -> None:
    found = commands_of(tmp_path)
    assert '[ -n "" ] || { echo "no Python 3.11, 3.12 or 3.13' in found
