"""The requests of one call enter the engine together, so that the answers do not depend on
timing."""

from __future__ import annotations

from pathlib import Path

import pytest
from serving import serving

pytestmark = pytest.mark.slow


def test_answers_of_one_call_do_not_depend_on_timing_under_int8(tmp_path: Path) -> None:
    """Under int8, outliers of one row change the products of all rows in its pass."""
    prompts = [
        f"Ann has {number} apples and buys {number * 7} more. " * (1 + number % 4) for number in range(24)
    ]
    body = {"prompt": prompts, "max_tokens": 16}
    with serving(tmp_path, "quantization=int8", "model.device=cpu", "tracking=none") as server:
        server.ask("/v1/completions", body)  # fills the prompt cache
        texts = {
            tuple(choice["text"] for choice in server.ask("/v1/completions", body)[1]["choices"])
            for _ in range(10)
        }
    assert len(texts) == 1
