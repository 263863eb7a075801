"""A file that llama.cpp's quantizer has made, opened by llama.cpp itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_models import CALIBRATED, made_by, with_maker
from real_llama_cpp import needs_llama_cpp, real_keys

from tools import embedded_gguf

pytestmark = [pytest.mark.slow, pytest.mark.thorough, needs_llama_cpp]
Run = Callable[..., Any]


@pytest.mark.parametrize(
    "recipe", [with_maker("imatrix_q4_k"), with_maker("q4_0"), with_maker("q8_0"), with_maker("f16")]
)
def test_llama_cpp_computes_with_a_made_file_what_our_engine_does(
    runner: Run, tmp_path: Path, recipe: str
) -> None:
    """model=llama_cpp compares both before it asks: first choices, log-probabilities, tokens."""
    source = embedded_gguf.write(tmp_path / "embedded-F32.gguf", "F32")
    made, _ = made_by(runner, tmp_path, f"task.recipe={recipe}", f"task.gguf={source}", *CALIBRATED)
    done = runner(*real_keys(made), "task.limit=2", "tracking=none", cwd=tmp_path)
    assert done.code == 0, done.err
    (log,) = tmp_path.glob("outputs/jobs/gsm8k-*/result.json")
    said = log.read_text()
    assert re.search(
        r"the same at 12\d of 128 positions, and .*llama.cpp and the runner tokenize 289 test texts identically",
        said,
    )
