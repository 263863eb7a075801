"""Whether a job's memory will do, judged from the checkpoint's headers before any weight is read; no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from runner.checkpoints import footprint
from runner.checkpoints.footprint import Footprint
from runner.checkpoints.resolve import Resolved
from runner.config.model import LocalModelConfig
from runner.config.root import RunnerConfig
from runner.core.errors import ConfigError, DataError
from runner.core.machine import MIB
from runner.quantization import SMALLEST
from runner.quantization.base import Source

UNITS = {"K": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def check_memory(config: RunnerConfig, resolved: Resolved, rooms_mib: Mapping[str, float]) -> list[str]:
    """Hold the predicted weights, KV cache and activations against what is free in the places they may go to."""
    if not resolved.model.check_memory:
        return []
    try:
        predicted = predict(config, resolved)
    except DataError:
        return []  # a damaged header: the load will read it, too, and name the tensor
    return [] if predicted is None else judge_memory(config, resolved, predicted, rooms_mib)


def predict(config: RunnerConfig, resolved: Resolved) -> Footprint | None:
    """Predict what the job will hold at its largest; of a sweep, in its smallest cell, as the others may fail."""
    return footprint.predict(config, resolved, *config.task.workload(config.generation))


def judge_memory(
    config: RunnerConfig, resolved: Resolved, predicted: Footprint, rooms_mib: Mapping[str, float]
) -> list[str]:
    """Refuse weights that do not fit; say it when they do, but not with what comes on top while completing."""
    free_mib = sum(rooms_mib.values())
    where = " and ".join(f"{room_mib:,.0f} MiB of {place}" for place, room_mib in rooms_mib.items())
    model, quantization = resolved.model, config.quantization.name
    if predicted.weight_mib > free_mib:
        fixes = [*smaller(config, resolved, free_mib), "a smaller model", *elsewhere(model, rooms_mib)]
        raise ConfigError(
            f"model.name={model.name} with quantization={quantization}: the weights need {predicted.weight_mib:,.0f} "
            f"MiB, and {where} are free: use {', '.join(fixes)}, or model.check_memory=false to try it all the same"
        )
    if predicted.total_mib > free_mib:
        return [
            f"memory is short: {predicted.weight_mib:,.0f} MiB of weights, {predicted.kv_cache_mib:,.0f} MiB of KV "
            f"cache and {predicted.activation_mib:,.0f} MiB of activations are predicted, and {where} are free: "
            "a smaller generation.batch_size or generation.max_new_tokens needs less"
        ]
    return []


def smaller(config: RunnerConfig, resolved: Resolved, free_mib: float) -> list[str]:
    """Name the smallest quantization as the fix where it would be one."""
    if config.quantization.source is not Source.plain or config.lora.merges:
        return []
    smallest = SMALLEST()
    predicted = predict(replace(config, quantization=smallest), resolved)
    if predicted is None or predicted.weight_mib > free_mib:
        return []
    return [f"quantization={smallest.name} ({predicted.weight_mib:,.0f} MiB)"]


def elsewhere(model: LocalModelConfig, rooms_mib: Mapping[str, float]) -> list[str]:
    """Name the device map as the fix where weights may go to one GPU only."""
    on_one_gpu = model.device_map is None and "main memory" not in rooms_mib
    return ["model.device=auto model.device_map=auto (spreads it over GPUs and main memory)"] if on_one_gpu else []


def limited(free_mib: Mapping[str, float], max_memory: Mapping[str, str] | None) -> dict[str, float]:
    """Cut each place to what model.max_memory allows there, and name it as people do."""
    max_memory = max_memory or {}
    names = {place: "main memory" if place == "cpu" else f"GPU {place}" for place in free_mib}
    allowed = {place: size_mib(max_memory[place]) if place in max_memory else math.inf for place in free_mib}
    if max_memory:  # as accelerate has it: a place that is not named gets nothing
        allowed |= dict.fromkeys(free_mib.keys() - max_memory.keys(), 0.0)
    return {names[place]: min(room, allowed[place]) for place, room in free_mib.items()}


def size_mib(size: str) -> float:
    """Turn 3GB, 800MiB and the like into MiB."""
    number = size.rstrip("KMGiB")
    return float(number) * UNITS[size[len(number) : -1]] / MIB
