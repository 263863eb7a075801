"""Applies a LoRA adapter to a loaded base model, and removes an applied adapter."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch

from runner_base import machine
from runner_base.console import IN_TABLE
from runner_base.notes import note
from runner_engine.checkpoints.resolved_model import ResolvedModel
from runner_engine.models import inventory
from runner_engine.models.build_lock import forbid_concurrent_builds
from runner_engine.models.load_summary import format_summary
from runner_engine.models.loaded_model import LoadedModel
from runner_engine.models.lora import import_adapter_module, merging, multi_adapter
from runner_engine.models.lora.adapter_report import AdapterReport
from runner_engine.quantization.capabilities import WeightProtector
from runner_engine.settings.lora import AdapterConfig
from runner_engine.spec import ModelSpec

log = logging.getLogger(__name__)


@forbid_concurrent_builds
def apply_adapter(base: LoadedModel, resolved: ResolvedModel) -> LoadedModel:
    """Apply the configured adapter to a base model, and set the number of CPU threads.

    Adds the metrics of both to the model's report.
    """
    started = time.perf_counter()
    loaded = replace(base, metrics=dict(base.metrics), facts=dict(base.facts), notes=list(base.notes))
    spec, files, lora, report = resolved.spec, resolved.files, resolved.files.lora, None
    if lora is not None:
        loaded.model, report = _attach_adapter(base, resolved, lora)
        loaded.notes += report.notes
        if lora.usual_rope not in (None, spec.rope.name) and lora.path != "embedded":
            loaded.notes.append(
                note("unusual_rope", rope=spec.rope.name, adapter=lora.name, usual=lora.usual_rope)
            )
    elif resolved.single_adapter_models:
        with _expose_layers_to_peft(base, resolved):
            report = multi_adapter.attach_all_adapters(loaded.model, resolved)
        loaded.notes += report.notes
    if report is not None:
        loaded.bytes_by_dtype = base.bytes_by_dtype.copy()
        loaded.bytes_by_dtype.update(inventory.count_adapter_nbytes(loaded.model))
    threads = files.model.threads or machine.num_threads_for_model(loaded.model.num_parameters())
    torch.set_num_threads(threads)
    loaded.facts["threads"] = str(threads)
    loaded.metrics["load_s"] += time.perf_counter() - started
    loaded.add_metrics_and_facts(inventory.describe_adapter(spec.lora, report))
    loaded.add_metrics_and_facts(inventory.summarize_weight_bytes_by_dtype(loaded.bytes_by_dtype))
    loaded.metrics |= inventory.measure_memory_in_use_mib(loaded.metrics)
    log.info("loaded model:\n%s", format_summary(loaded.metrics, loaded.facts), extra=IN_TABLE)
    return loaded


def _attach_adapter(
    base: LoadedModel, resolved: ResolvedModel, lora: AdapterConfig
) -> tuple[Any, AdapterReport]:
    """Apply an adapter, either merged into the weights or unmerged. Returns the adapted model and
    an adapter report.
    """
    if base.merged is not None:
        return base.model, base.merged
    place = resolved.files.adapter
    assert place is not None
    with _expose_layers_to_peft(base, resolved):
        if lora.merge:
            return merging.merge_adapter(base.model, resolved)
        applied: tuple[Any, AdapterReport] = import_adapter_module(lora).apply(
            base.model, lora, place, resolved.spec.model.name
        )
        return applied


@contextmanager
def _expose_layers_to_peft(base: LoadedModel, resolved: ResolvedModel) -> Iterator[None]:
    """Context manager that lets PEFT recognize the base model's quantized layers."""
    with ExitStack() as protecting:
        for choice in resolved.quantization_mix.quantizing_configs:
            if isinstance(choice, WeightProtector):
                protecting.enter_context(choice.protect_weights(base.model))
        yield


def detach_adapter(loaded: LoadedModel, spec: ModelSpec) -> bool:
    """Remove the adapter from a model. Returns False if the original weights cannot be restored."""
    if spec.lora.merges_adapter:
        return False
    if spec.lora.selectable_adapters:
        return multi_adapter.detach_all_adapters(loaded.model)
    if (lora := spec.lora.single_adapter) is not None:
        return bool(import_adapter_module(lora).remove(loaded.model))
    return True
