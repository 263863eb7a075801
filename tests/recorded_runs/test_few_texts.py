"""A gate on few texts of a real model: what they show of a perplexity is not enough."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]


@pytest.mark.thorough
@pytest.mark.parametrize("gate", ["perplexity<1.004", "rank_1_share>0.99", "bits_per_byte<9"])
def test_a_gate_on_ten_texts_is_not_met(runner: Command, tmp_path: Path, gate: str) -> None:
    """Of ten texts of the embedded model none is unlikely: they look better than 1.004, and the
    perplexity of a thousand is 1.006."""
    job = ("task=likelihood", "task.limit=10", "tracking=none", "print=none", "output_dir=out")
    assert runner("-m", "quantization=none,int8", *job, "workers=1").code == 0
    done = runner(
        "--output-dir", str(tmp_path / "out"), "--baseline", "quantization=none", "--require", gate,
        module="runner_compare",
    )  # fmt: skip
    assert done.code == 1
    assert "the test needs at least 50 texts, but the runs share only 10 (" in done.out + done.err
    failed = done.err.partition("requirement failed")[2]
    assert "only 10 documents, but an interval needs 50" in failed
    assert gate in failed
