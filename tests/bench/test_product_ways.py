"""The benchmark of the ways of products prints a table and what a job would use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.thorough

BENCH = Path(__file__).parents[2] / "bench"


def test_each_way_has_a_line_and_the_last_line_is_the_choice() -> None:
    command = [
        sys.executable,
        str(BENCH / "product_ways.py"),
        "--shapes",
        "64x64",
        "--rounds",
        "1",
        "--dtype",
        "float32",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("tiles: ") for line in lines), "why a way is missing"
    table = [line for line in lines if line.startswith("| 64 x 64 | ")]
    ways = {line.split(" | ")[1] for line in table}
    assert "plain" in ways
    assert all(len(line.strip("| ").split(" | ")) == 8 for line in table)
    assert lines[-1].startswith("products: ")
