"""Tiny models loaded with a choice of number format, what they compute, and what was predicted of
them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from opening import adapt, load_base, make_spec, predict

from runner_base.dtypes import Dtype
from runner_engine.models.base_loading import LoadedModel
from runner_engine.quantization.base import QuantizationConfig
from runner_engine.settings.model import LocalConfig
from runner_engine.spec import ModelSpec

IDS = torch.arange(3, 40)[None]
NONE = QuantizationConfig()


def configure(
    folder: Path, quantization: QuantizationConfig = NONE, dtype: Dtype = Dtype.bfloat16, **groups: Any
) -> ModelSpec:
    """Return the spec of a checkpoint on the CPU."""
    model = LocalConfig(name=str(folder), device="cpu", dtype=dtype)
    return make_spec(model=model, quantization=quantization, **groups)


def load(
    folder: Path, quantization: QuantizationConfig = NONE, dtype: Dtype = Dtype.bfloat16, **groups: Any
) -> LoadedModel:
    """Load a checkpoint as a job would."""
    spec = configure(folder, quantization, dtype, **groups)
    return adapt(load_base(spec), spec)


def logits(model: Any) -> torch.Tensor:
    """Return the logits of a few tokens; a model that is loaded, or a library's."""
    with torch.inference_mode():
        found: torch.Tensor = (model.model if isinstance(model, LoadedModel) else model)(IDS).logits.float()
    return found


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return how far numbers are from others, as a share of these."""
    return float((found - expected).norm() / expected.norm())


def check_predicted_bytes(loaded: LoadedModel, spec: ModelSpec) -> None:
    """Compare the bytes of the loaded weights with those that were predicted."""
    predicted = predict(spec, 2, 8, 8)
    assert predicted is not None
    buffers = sum(one.nbytes for one in loaded.model.buffers())
    assert sum(predicted.weights.values()) == sum(loaded.bytes_by_dtype.values()) - buffers
