"""A model in any number format answers a prompt alike whatever others go along, and its passes are
single calls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from answering_alike import check_answers_alike
from stored_formats import FORMATS, INT8
from transformers import AutoTokenizer

from runner_base.dtypes import Dtype
from runner_engine.kernels import native
from runner_engine.local.engine import LocalEngine
from runner_engine.quantization.hqq import HqqConfig
from runner_engine.quantization.load_time_groups import LoadTimeGroupsConfig
from runner_engine.quantization.torchao import TorchaoIntxConfig
from runner_engine.settings.model import LocalConfig

GROUPED = ("gptq", "gptq_order", "awq", "auto_round_gptqmodel", "pack_quantized_zeros")
DTYPES = pytest.mark.parametrize("dtype", [Dtype.float32, Dtype.bfloat16])


def check(engine: LocalEngine, expected: str) -> None:
    assert engine.load().facts["quantized"].endswith(expected)
    check_answers_alike(engine)
    if native.load_kernels() is not None:
        assert engine.fused is not None, "a pass is a single call"
        assert engine.stats.rows_are_independent
        assert not [note for note in engine.stats.notes if note.code.startswith("slow_")]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", [*INT8, *GROUPED])
@DTYPES
def test_of_a_stored_format(
    opened: Callable[..., LocalEngine], tmp_path: Path, tiny_llama: Path, name: str, dtype: Dtype
) -> None:
    of = FORMATS[name]
    of.save(tmp_path, of.name)
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(tmp_path)
    engine = opened(model=LocalConfig(name=str(tmp_path), device="cpu", dtype=dtype))
    check(engine, f"(14 of 15 linear layers: 14 {of.layers})")


@pytest.mark.sampled(1)
@pytest.mark.parametrize("choice", [HqqConfig(), TorchaoIntxConfig(bits=3, symmetric=False)])
@DTYPES
def test_of_a_format_that_is_made(
    choice: LoadTimeGroupsConfig,
    dtype: Dtype,
    opened: Callable[..., LocalEngine],
    saved_family: Callable[..., Path],
) -> None:
    engine = opened(
        model=LocalConfig(name=str(saved_family()), device="cpu", dtype=dtype), quantization=choice
    )
    check(engine, "(14 of 15 linear layers: 14 GroupedLinear)")
