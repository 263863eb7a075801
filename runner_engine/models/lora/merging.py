"""Merges an adapter into the weights: in which numbers the two are added, and before or after
quantizing.

Weights that are quantized already are unpacked, merged and quantized again, each as its choice
says. Where the adapter is merged first, the model is still plain here, and what quantizes it comes
after (models/loading/merged.py).
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from runner_base import ConfigError, Dtype, few
from runner_engine.checkpoints.resolve import ResolvedModel
from runner_engine.devices import heap
from runner_engine.models.loading.mixed import quantized
from runner_engine.models.lora import module_of
from runner_engine.models.lora.report import AdapterReport
from runner_engine.models.lora.unpacking import is_plain, unpacked
from runner_engine.settings.lora import AdapterConfig


def merge(model: Any, resolved: ResolvedModel) -> tuple[Any, AdapterReport]:
    """Merge the adapter into a model's weights, and return both the model and what was merged."""
    lora, place = resolved.files.lora, resolved.files.adapter
    assert lora is not None
    assert place is not None
    for package in lora.packages:
        importlib.import_module(package)  # takes seconds, and is no part of merging
    started = time.perf_counter()
    with heap.large_blocks_mapped():
        model, report = _merged(model, resolved, lora, place)
    return model, replace(report, merge_s=time.perf_counter() - started)


def _merged(
    model: Any, resolved: ResolvedModel, lora: AdapterConfig, place: Path
) -> tuple[Any, AdapterReport]:
    files, name = resolved.files, resolved.spec.model.name
    dtype = getattr(torch, files.dtype)
    added_in = dtype if lora.merge_dtype is Dtype.auto else getattr(torch, lora.merge_dtype.value)
    adapted = _adapted(model, lora, place)
    codes = [path for path in adapted if not is_plain(model.get_submodule(path))]
    if codes and lora.merge_order is None:
        raise ConfigError(
            f"{len(codes)} layers of {name} are quantized ({few(codes)}), and merging into quantized "
            "weights loses precision; use lora.merge=false, or lora.merge_order=quantize_first",
            key="lora.merge",
            value="true",
            code="conflict",
        )
    _unpack(model, codes, added_in, lora)
    with _added_in(model, adapted if lora.merge_dtype is not Dtype.auto else codes, added_in, dtype):
        model, report = module_of(lora).apply(model, lora, place, name)
    for path in codes:
        layer, choice = model.get_submodule(path), resolved.mix.choice_for(path)
        model.set_submodule(path, quantized(choice, model, layer, path))
    return model, report


def _adapted(model: Any, lora: AdapterConfig, place: Path) -> list[str]:
    """Return the paths of the model's modules that the adapter has matrices for."""
    modules = dict(model.named_modules())
    return [path for path in module_of(lora).adapted_paths(lora, place) if path in modules]


def _unpack(model: Any, paths: list[str], dtype: torch.dtype, lora: AdapterConfig) -> None:
    """Put a plain layer in place of each quantized one."""
    plain = {path: unpacked(model.get_submodule(path), dtype) for path in paths}
    if unknown := [path for path, layer in plain.items() if layer is None]:
        kind = type(model.get_submodule(unknown[0])).__name__
        raise ConfigError(
            f"{few(unknown)} cannot be unpacked ({kind}): use "
            "lora.merge_order=merge_first, or lora.merge=false",
            key="lora.merge_order",
            value=lora.merge_order,
            code="unsupported",
        )
    for path, layer in plain.items():
        model.set_submodule(path, layer)


@contextmanager
def _added_in(model: Any, paths: list[str], added_in: torch.dtype, dtype: torch.dtype) -> Iterator[None]:
    """Let the modules' weights be of one format inside, and of the model's afterwards."""
    for path in paths:
        _convert(model.get_submodule(path), added_in)
    yield
    for path in paths:
        _convert(model.get_submodule(path), dtype)


def _convert(module: nn.Module, dtype: torch.dtype) -> None:
    for parameter in module.parameters(recurse=False):
        if parameter.is_floating_point() and parameter.dim() > 1:
            parameter.data = parameter.data.to(dtype)
