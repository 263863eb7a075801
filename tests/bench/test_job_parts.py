"""The benchmark of a job's parts: each second is counted once, and the parts within passes come
from C."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runner_engine.kernels import native

BENCH = Path(__file__).parents[2] / "bench"


@pytest.mark.thorough  # it compiles kernels of its own
def test_the_parts_are_the_whole_job() -> None:
    if native.load_kernels() is None:
        pytest.skip("there is no C compiler here")
    words = ["--model", "embedded", "--gsm8k", "", "--questions", "4", "--new-tokens", "6", "--threads", "1"]
    done = subprocess.run(
        [sys.executable, str(BENCH / "job_parts.py"), *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")][2:]
    assert [line[0] for line in lines][:2] == ["products of the layers", "attention"]
    shares = [float(line[-1].strip("| %")) for line in lines]
    assert sum(shares) == pytest.approx(100, abs=0.1 * len(shares)), "no part is counted twice or left out"
    assert shares[0] > 0
