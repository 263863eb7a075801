"""Models of int8 weights and int8 rows, as compressed-tensors stores them, in the local engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from int8_checkpoints import STORED, save
from transformers import AutoTokenizer

from runner.config.model import LocalConfig
from runner.core.dtypes import Dtype
from runner.engines.base import Request
from runner.engines.contract import complete
from runner.engines.local.engine import LocalEngine
from runner.engines.local.kernels import native


@pytest.mark.parametrize("name", STORED)
@pytest.mark.parametrize("dtype", [Dtype.float32, Dtype.bfloat16])
def test_the_engine_answers_alike_whatever_rows_go_along(
    opened: Callable[..., LocalEngine], tmp_path: Path, tiny_llama: Path, name: str, dtype: Dtype
) -> None:
    save(tmp_path, name)
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(tmp_path)
    engine = opened(model=LocalConfig(name=str(tmp_path), device="cpu", dtype=dtype))
    assert engine.load().facts["quantized"].startswith("int_quantized: 14 of 15 linear layers")
    prompts = ["a", "What is three times four?", "x" * 33]

    def answers(some: list[str]) -> list[tuple[int, ...]]:
        requests = [Request(at, text, (), 12, ignore_eos=True) for at, text in enumerate(some)]
        found = {one.id: tuple(one.token_ids) for one in complete(engine, requests)}
        return [found[at] for at in range(len(some))]

    together = answers(prompts)
    assert together == [answers([prompt])[0] for prompt in prompts]
    kernels = native.kernels()
    if kernels is not None:
        assert engine.fused is not None, "a pass in a single call rounds rows, too"
        assert engine.stats.rows_are_independent
