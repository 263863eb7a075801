"""The benchmark of formats has a line for each choice, and names those that it leaves out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runner_engine.quantization import CHOICES
from runner_engine.quantization.base import CheckpointSource

pytestmark = pytest.mark.slow  # as a group: `make test-fast` leaves them out

BENCH = Path(__file__).parents[2] / "bench"


@pytest.mark.thorough
def test_each_choice_has_a_line() -> None:
    command = [sys.executable, str(BENCH / "which_format.py"), "--choices", "nf4,gptq,bitnet,fp8"]
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
    assert list(costs)[2:] == ["none", "none again", "nf4", "gptq", "gptq, int8 rows", "bitnet", "fp8"], costs
    assert costs["nf4"][0] == costs["none"][0], "the same file"
    assert float(costs["gptq"][0]) < float(costs["none"][0])
    for name in ("nf4", "gptq", "bitnet", "fp8"):
        assert float(costs[name][1]) < float(costs["none"][1])
        assert len(costs[name]) == 8
    kls = {row[0]: row[2] for row in rows if len(row) == 4}
    assert kls["none again"] == "0 [0, 0]"
    for name in ("nf4", "gptq", "fp8"):
        assert float(kls[name].split()[0]) > 0
    assert "bitnet" not in kls
    assert any(line.startswith("Without bitnet: ") for line in lines)


def test_every_choice_for_stored_checkpoints_can_be_written() -> None:
    from stored_of import FORMATS

    stored = {name for name, choice in CHOICES.items() if choice.source is CheckpointSource.quantized}
    assert {one.choice for one in FORMATS.values()} == stored
