"""The benchmark of the KV cache in 8 bits measures both formats, and what 8 bits cost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.thorough

BENCH = Path(__file__).parents[2] / "bench"


def test_the_cache_takes_less_memory_and_the_cost_has_an_interval(tiny_llama: Path) -> None:
    command = [
        sys.executable,
        str(BENCH / "kv_cache.py"),
        "--model",
        str(tiny_llama),
        "--rounds",
        "1",
        "--rows",
        "2",
    ]
    command += ["--context", "40", "--new", "4", "--texts", "3", "--long", "50"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    memory = lines[next(at for at, line in enumerate(lines) if line[0].startswith("MiB")) :]
    plain, eight = (
        float(next(line for line in memory if line[0] == name)[2].split()[0]) for name in ("as_model", "int8")
    )
    assert 0 < eight < 0.75 * plain
    costs = [line for line in lines if line[0].startswith("after ")]
    assert [line[0] for line in costs] == ["after its question", "after 50 tokens of others"]
    for line in costs:
        mean, low, high = (float(part.strip("[],")) for part in line[2].split())
        assert low <= mean <= high
    assert float(costs[1][3].split()[0]) > 0, "the distributions differ"
