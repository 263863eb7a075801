"""Checkpoints that a benchmark writes load by the choices of their formats, with weights near those
of the model."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from opening import load_base, make_spec

from runner_engine.models.grouped_linear import GroupedLinear
from runner_engine.quantization import CHOICES
from runner_engine.settings.model import LocalModelConfig

# how far a weight is off, as a share of the largest
NEAR = {
    **dict.fromkeys(("W8A8", "W8A16"), 0.005),
    **dict.fromkeys(("gptq", "awq", "auto_round", "W4A16"), 0.08),
    **dict.fromkeys(("FP8 W8A8", "fbgemm_fp8", "fp8"), 0.04),
    **dict.fromkeys(("NVFP4", "MXFP4"), 0.3),
}


@pytest.fixture
def stored_of() -> Any:
    return importlib.import_module("stored_of")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", [*NEAR, "bitnet"])
def test_a_checkpoint_loads(
    saved_family: Callable[..., Path], tmp_path: Path, stored_of: Any, name: str
) -> None:
    assert {*stored_of.FORMATS} == {*NEAR, "bitnet"}
    plain = saved_family("llama")
    folder = stored_of.checkpoint_of(plain, name, tmp_path)
    assert stored_of.checkpoint_of(plain, name, tmp_path) == folder
    choice = CHOICES[stored_of.FORMATS[name].choice]()
    loaded = load_base(make_spec(model=LocalModelConfig(name=str(folder), device="cpu"), quantization=choice))
    layers = {path: one for path, one in loaded.model.named_modules() if isinstance(one, GroupedLinear)}
    assert len(layers) == 14
    expected = load_base(make_spec(model=LocalModelConfig(name=str(plain), device="cpu"))).model
    for path, layer in layers.items():
        weight = expected.get_submodule(path).weight.float()
        found = layer.dequantize_outputs(0, layer.out_features, torch.float32)
        if name == "bitnet":
            assert set(found.unique().tolist()) == {-1, 0, 1}
        else:
            assert (found - weight).abs().max() <= NEAR[name] * weight.abs().max(), path
