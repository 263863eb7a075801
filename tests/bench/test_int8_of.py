"""Checkpoints of int8 that a benchmark writes load as those of llm-compressor."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from opening import load_base

from runner.config.model import LocalModelConfig
from runner.config.root import RunnerConfig
from runner.quantization.int_quantized import IntQuantizedConfig


@pytest.fixture
def int8_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[2] / "bench"), *sys.path])
    return importlib.import_module("int8_of")


@pytest.mark.parametrize(("name", "kind"), [("W8A8", "Int8Linear"), ("W8A16", "GroupedLinear")])
def test_a_checkpoint_loads(
    make_config: Callable[..., RunnerConfig],
    saved_family: Callable[..., Path],
    tmp_path: Path,
    int8_of: Any,
    name: str,
    kind: str,
) -> None:
    folder = int8_of.checkpoint_of(saved_family("llama"), name, tmp_path)
    assert int8_of.checkpoint_of(saved_family("llama"), name, tmp_path) == folder
    model = LocalModelConfig(name=str(folder), device="cpu")
    loaded = load_base(make_config(model=model, quantization=IntQuantizedConfig()))
    layers = [type(one).__name__ for one in loaded.model.modules()]
    assert layers.count(kind) == 14


def test_weights_are_within_half_a_step(int8_of: Any) -> None:
    weight = torch.randn(3, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    (_, numbers), (path, scale) = int8_of.stored("model.up_proj.weight", weight)
    assert path == "model.up_proj.weight_scale"
    assert ((numbers * scale.float() - weight.float()).abs() <= 0.51 * scale.float()).all()
    assert int8_of.stored("model.norm.weight", weight) == [("model.norm.weight", weight)]
