"""The benchmark of blocks prints a line for each type, beside plain panels."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runner_engine.kernels import native

pytestmark = pytest.mark.thorough

BENCH = Path(__file__).parents[2] / "bench"


@pytest.mark.skipif(native.load_kernels() is None, reason="the kernels are not built here")
def test_each_type_has_a_line_beside_plain_panels() -> None:
    chosen = [
        "--shape",
        "64x256",
        "--types",
        "Q4_K,Q8_0",
        "--rows",
        "1",
        "3",
        "--rounds",
        "1",
        "--dtype",
        "float32",
    ]
    command = [sys.executable, str(BENCH / "block_speed.py"), *chosen]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    names = [line[0] for line in table if len(line) == 4 and line[0] not in ("GFLOP/s", "---")]
    assert names == ["float32", "Q4_K", "Q4_K x int8", "Q8_0", "Q8_0 x int8"]
