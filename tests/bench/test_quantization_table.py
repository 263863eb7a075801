"""The benchmark of quantizations measures speed, memory and what the answers lose, with a
control."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.thorough

BENCH = Path(__file__).parents[2] / "bench"
OPTIONS = [
    "--model",
    "embedded",
    "--lines",
    "nf4,KV cache int8",
    "--rows",
    "1,2",
    "--rounds",
    "1",
    "--prompt",
    "24",
]


def numbers(cell: str) -> list[float]:
    """Return a value and the ends of its interval."""
    return [float(word.strip("[],")) for word in cell.split()]


def test_the_same_model_differs_by_nothing_and_a_quantized_one_by_more_than_nothing() -> None:
    command = [sys.executable, str(BENCH / "quantization_table.py"), *OPTIONS, "--new", "4", "--texts", "50"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    assert rows[0][-4:] == ["none", "none again", "nf4", "KV cache int8"]
    by_name = {row[0]: row[1:] for row in rows[2:]}
    none, again, nf4, _ = (float(cell) for cell in by_name["weights, MiB"])
    assert nf4 < none == again
    *_, plain_kv, eight_bits = (float(cell) for cell in by_name["keys and values, MiB, 2 rows"])
    assert 0 < eight_bits < 0.75 * plain_kv
    for what in ("decode", "prefill"):
        for count in ("1 row", "2 rows"):
            assert len(by_name[f"{what}, tokens/s, {count}"]) == 4
    assert numbers(by_name["Δ log-likelihood, nats"][1]) == numbers(by_name["KL, nats"][1]) == [0, 0, 0]
    for cell in by_name["Δ log-likelihood, nats"][2:]:
        value, low, high = numbers(cell)
        assert low <= value <= high
    for cell in by_name["KL, nats"][2:]:
        value, low, high = numbers(cell)
        assert 0 < low <= value <= high
    assert done.stdout.splitlines()[-1].endswith(
        "The interval of the KL leaves out 0 for nf4, KV cache int8."
    )
