"""A call's requests enter the engine together: what one call is answered does not depend on timing."""

from __future__ import annotations

from pathlib import Path

import pytest
from serving import serving

pytestmark = pytest.mark.slow


def test_answers_of_one_call_do_not_depend_on_timing_under_int8(tmp_path: Path) -> None:
    """Under int8 a row's outliers decide how all rows of its pass are multiplied."""
    prompts = [f"Ann has {number} apples and buys {number * 7} more. " * (1 + number % 4) for number in range(24)]
    body = {"prompt": prompts, "max_tokens": 16}
    with serving(tmp_path, "quantization=int8", "model.device=cpu", "tracking=none") as server:
        server.ask("/v1/completions", body)  # from here on the prompts are kept
        texts = {
            tuple(choice["text"] for choice in server.ask("/v1/completions", body)[1]["choices"]) for _ in range(10)
        }
    assert len(texts) == 1
