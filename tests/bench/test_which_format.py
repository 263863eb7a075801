"""The benchmark of formats has a line for each choice, and names those that it leaves out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runner.quantization import CHOICES
from runner.quantization.base import CheckpointSource

pytestmark = pytest.mark.slow  # as a group: `make test-fast` leaves them out

BENCH = Path(__file__).parents[2] / "bench"


def test_each_choice_is_measured_or_left_out_with_a_reason() -> None:
    stored = [name for name, choice in CHOICES.items() if choice.source is CheckpointSource.quantized]
    command = [sys.executable, str(BENCH / "which_format.py"), "--choices", ",".join(["nf4", *stored])]
    command += [
        "--models",
        "embedded",
        "--rounds",
        "1",
        "--rows",
        "1,2",
        "--prompt",
        "8",
        "--new",
        "4",
        "--texts",
        "50",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    costs = {row[0]: row[1:] for row in rows if len(row) > 6}
    assert list(costs)[2:] == ["none", "none again", "nf4"], costs
    assert costs["nf4"][0] == costs["none"][0], "the same file"
    assert float(costs["nf4"][1]) < float(costs["none"][1])
    assert len(costs["nf4"]) == 8
    for name in stored:
        assert any(line.startswith(f"- left out: {name}: ") for line in lines)
    kls = {row[0]: row[2] for row in rows if len(row) == 4}
    assert kls["none again"] == "0 [0, 0]"
    assert float(kls["nf4"].split()[0]) > 0
