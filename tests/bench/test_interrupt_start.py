"""Ctrl-C at any moment of a job's start ends it with exit code 130."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "bench" / "interrupt_start.py"


@pytest.mark.thorough
@pytest.mark.slow
def test_an_interrupt_at_any_moment_is_exit_code_130() -> None:
    command = [sys.executable, str(SCRIPT), "--step", "0.1", "--until", "5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout
