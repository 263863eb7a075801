"""A short soak of a server with the benchmark's own clients and attacks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.thorough
def test_a_short_soak_has_no_failure_and_its_memory_comes_back() -> None:
    command = [
        sys.executable, "bench/serve_soak.py",
        "--clients", "8", "--seconds", "20", "--rounds", "3", "--rest", "15",
    ]  # fmt: skip
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    print(ran.stdout)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    rounds = [line.split() for line in ran.stdout.splitlines()[2:5]]
    assert all(int(answers) > 0 and int(costly) > 0 for answers, costly, *_ in rounds)
