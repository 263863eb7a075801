"""Merges an adapter into a model's weights, computed in a chosen dtype, before or after quantization.

Quantized weights are dequantized, merged and quantized again, each by its config. If the adapter is
merged first, the model is still plain here, and the loading backend quantizes it afterwards
(models/loading/merged.py).
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

from runner_base import ConfigError, Dtype, join_first_names
from runner_engine.checkpoints.resolved_model import ResolvedModel
from runner_engine.devices import heap
from runner_engine.models.loading.mixed import quantize_layer
from runner_engine.models.lora import import_adapter_module
from runner_engine.models.lora.adapter_report import AdapterReport
from runner_engine.models.lora.dequantization import dequantize_linear, has_unquantized_weight
from runner_engine.settings.lora import AdapterConfig


def merge_adapter(model: Any, resolved: ResolvedModel) -> tuple[Any, AdapterReport]:
    lora, place = resolved.files.lora, resolved.files.adapter
    assert lora is not None
    assert place is not None
    for package in lora.packages:
        importlib.import_module(package)  # takes seconds, and is no part of merging
    started = time.perf_counter()
    with heap.use_mmap_for_large_blocks():
        model, report = _merge_adapter_weights(model, resolved, lora, place)
    return model, replace(report, merge_s=time.perf_counter() - started)


def _merge_adapter_weights(
    model: Any, resolved: ResolvedModel, lora: AdapterConfig, adapter_path: Path
) -> tuple[Any, AdapterReport]:
    files, name = resolved.files, resolved.spec.model.name
    dtype = getattr(torch, files.dtype)
    added_in = dtype if lora.merge_dtype is Dtype.auto else getattr(torch, lora.merge_dtype.value)
    adapted = _list_adapted_module_paths(model, lora, adapter_path)
    codes = [path for path in adapted if not has_unquantized_weight(model.get_submodule(path))]
    if codes and lora.merge_order is None:
        raise ConfigError(
            f"{len(codes)} layers of {name} are quantized ({join_first_names(codes)}). Merging into "
            "quantized weights loses precision. Use lora.merge=false, or lora.merge_order=quantize_first",
            key="lora.merge",
            value="true",
            code="conflict",
        )
    _dequantize_layers(model, codes, added_in, lora)
    with _convert_weights_for_merge(
        model, adapted if lora.merge_dtype is not Dtype.auto else codes, added_in, dtype
    ):
        model, report = import_adapter_module(lora).apply(model, lora, adapter_path, name)
    for path in codes:
        layer, choice = model.get_submodule(path), resolved.quantization_mix.select_layer_config(path)
        model.set_submodule(path, quantize_layer(choice, model, layer, path))
    return model, report


def _list_adapted_module_paths(model: Any, lora: AdapterConfig, adapter_path: Path) -> list[str]:
    modules = dict(model.named_modules())
    return [path for path in import_adapter_module(lora).adapted_paths(lora, adapter_path) if path in modules]


def _dequantize_layers(model: Any, paths: list[str], dtype: torch.dtype, lora: AdapterConfig) -> None:
    """Replace the quantized layers at `paths` by unquantized nn.Linear layers with the dequantized
    weights.
    """
    plain = {path: dequantize_linear(model.get_submodule(path), dtype) for path in paths}
    if unknown := [path for path, layer in plain.items() if layer is None]:
        kind = type(model.get_submodule(unknown[0])).__name__
        raise ConfigError(
            f"layers of the class {kind} cannot be dequantized: {join_first_names(unknown)}. Use "
            "lora.merge_order=merge_first, or lora.merge=false",
            key="lora.merge_order",
            value=lora.merge_order,
            code="unsupported",
        )
    for path, layer in plain.items():
        model.set_submodule(path, layer)


@contextmanager
def _convert_weights_for_merge(
    model: Any, paths: list[str], merge_dtype: torch.dtype, dtype: torch.dtype
) -> Iterator[None]:
    for path in paths:
        _convert_weight_matrices(model.get_submodule(path), merge_dtype)
    yield
    for path in paths:
        _convert_weight_matrices(model.get_submodule(path), dtype)


def _convert_weight_matrices(module: nn.Module, dtype: torch.dtype) -> None:
    for parameter in module.parameters(recurse=False):
        if parameter.is_floating_point() and parameter.dim() > 1:
            parameter.data = parameter.data.to(dtype)
