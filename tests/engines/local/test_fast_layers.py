"""Layers whose function is exchanged: on a processor without the instructions for it they keep their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_processor_without_bfloat16_products_answers_and_says_so(quantization: str, tmp_path: Path) -> None:
    arguments = [f"quantization={quantization}", "task=generate", "task.prompt=Hi", "print=json", "tracking=none"]
    done = subprocess.run(
        [sys.executable, "-m", "runner", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads((Path(json.loads(done.stdout)["output_dir"]) / "result.json").read_text())
    assert any("bfloat16 weights are not packed" in note for note in record["result"]["notes"])
    assert record["result"]["metrics"]["errors"] == 0
