"""Applies an adapter to a loaded base, and removes it again."""

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
from runner_engine.checkpoints.resolve import ResolvedModel
from runner_engine.models import inventory
from runner_engine.models.building import one_at_a_time
from runner_engine.models.loaded import Loaded
from runner_engine.models.loaded_lines import text
from runner_engine.models.lora import merging, module_of, several
from runner_engine.models.lora.report import AdapterReport
from runner_engine.quantization.capabilities import ProtectsWeights
from runner_engine.settings.lora import AdapterConfig
from runner_engine.spec import ModelSpec

log = logging.getLogger(__name__)


@one_at_a_time
def adapt(base: Loaded, resolved: ResolvedModel) -> Loaded:
    """Apply the adapter and thread count to a base, and report on both together."""
    started = time.perf_counter()
    loaded = replace(base, metrics=dict(base.metrics), facts=dict(base.facts), notes=list(base.notes))
    spec, files, lora, report = resolved.spec, resolved.files, resolved.files.lora, None
    if lora is not None:
        loaded.model, report = _adapted(base, resolved, lora)
        loaded.notes += report.notes
        if lora.usual_rope not in (None, spec.rope.name) and lora.path != "embedded":
            loaded.notes.append(
                note("unusual_rope", rope=spec.rope.name, adapter=lora.name, usual=lora.usual_rope)
            )
    elif resolved.apart:
        with _adapting(base, resolved):
            report = several.apply(loaded.model, resolved)
        loaded.notes += report.notes
    if report is not None:
        loaded.bytes_by_dtype = base.bytes_by_dtype.copy()
        loaded.bytes_by_dtype.update(inventory.adapter_bytes(loaded.model))
    threads = files.model.threads or machine.threads_for(loaded.model.num_parameters())
    torch.set_num_threads(threads)
    loaded.facts["threads"] = str(threads)
    loaded.metrics["load_s"] += time.perf_counter() - started
    loaded.report(inventory.describe_lora(spec.lora, report))
    loaded.report(inventory.describe_weights(loaded.bytes_by_dtype))
    loaded.metrics |= inventory.memory_in_use(loaded.metrics)
    log.info("loaded model:\n%s", text(loaded.metrics, loaded.facts), extra=IN_TABLE)
    return loaded


def _adapted(base: Loaded, resolved: ResolvedModel, lora: AdapterConfig) -> tuple[Any, AdapterReport]:
    """Return the model with its adapter, beside the weights or merged into them, and what was
    applied."""
    if base.merged is not None:
        return base.model, base.merged
    place = resolved.files.adapter
    assert place is not None
    with _adapting(base, resolved):
        if lora.merge:
            return merging.merge(base.model, resolved)
        applied: tuple[Any, AdapterReport] = module_of(lora).apply(
            base.model, lora, place, resolved.spec.model.name
        )
        return applied


@contextmanager
def _adapting(base: Loaded, resolved: ResolvedModel) -> Iterator[None]:
    """Let PEFT see the base's layers, as each choice of its quantization needs it."""
    with ExitStack() as protecting:
        for choice in resolved.mix.choices:
            if isinstance(choice, ProtectsWeights):
                protecting.enter_context(choice.adapting(base.model))
        yield


def release(loaded: Loaded, spec: ModelSpec) -> bool:
    """Remove the adapter; False if the base cannot be restored."""
    if spec.lora.merges:
        return False
    if spec.lora.each:
        return several.remove(loaded.model)
    if (lora := spec.lora.adapter) is not None:
        return bool(module_of(lora).remove(loaded.model))
    return True
